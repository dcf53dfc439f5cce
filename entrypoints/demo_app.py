"""`mlflow run . -e demo_app`: a page in the browser to try a served model."""

from adipocyte.config import DemoAppConfig
from entrypoints.command import command


@command(DemoAppConfig)
def demo_app(config: DemoAppConfig) -> None:
    """Open a page on this machine: drop a TIFF stack, see and save what a served model paints."""
    from adipocyte.delivery.serving.page import open_page

    print(f"Open http://127.0.0.1:{config.port} in a browser; Ctrl-C ends the page.")
    print(f"The model that paints is served at {config.server}.")
    open_page(config.server, config.port)


if __name__ == "__main__":
    demo_app()
