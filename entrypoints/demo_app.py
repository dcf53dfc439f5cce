"""`mlflow run . -e demo_app`: a page in the browser to try a served model."""

from adipocyte.config import DemoAppConfig
from entrypoints.command import command


@command(DemoAppConfig, records=False)
def demo_app(config: DemoAppConfig) -> None:
    """Open a page on this machine: drop a TIFF stack, see and save what a served model paints."""
    from adipocyte.delivery.serving.page import open_page

    open_page(config.server, config.port)


if __name__ == "__main__":
    demo_app()
