"""`mlflow run . -e register`: the newest networks to a registered model."""

from typing import TYPE_CHECKING

from adipocyte.config import RegisterConfig
from entrypoints.command import command

if TYPE_CHECKING:
    from adipocyte.delivery.models.versions import Registered


@command(RegisterConfig)
def register(config: RegisterConfig) -> None:
    """Bundle the networks of the given runs, or the newest of each, and register them as a model.

    The new version becomes champion if it is better on the validation wells. With pretrained=true
    it registers the network that comes with the package.
    """
    if config.pretrained:
        _pretrained(config)
        return
    from adipocyte.store.reader import Store

    store = Store(config.store)

    from adipocyte.delivery.models import register as registry
    from adipocyte.delivery.models.assemble import with_segmenter
    from adipocyte.delivery.runs.runs import newest_run, step_run

    given = {"A1": config.a1, "A2": config.a2, "A3": config.a3}
    runs = {
        target: given[target] or newest_run("train_gan", store.digest, target)
        for target in store.manifest.targets
    }
    runs = with_segmenter(runs, config.segmenter)
    with step_run("register", config, store=store.digest):
        registered = registry.register(store, runs, config)
        _tag(registered)
    _tell(registered)
    print(f"Intensities: {registered.intensities}, as the validation wells prefer.")
    print(f"Next: mlflow models serve -m {registered.address} --env-manager local")


def _pretrained(config: RegisterConfig) -> None:
    from adipocyte.delivery.models.pretrained import register_pretrained
    from adipocyte.delivery.runs.runs import step_run

    with step_run("register", config):
        registered = register_pretrained(config.name)
        _tag(registered)
    _tell(registered)
    print(f"Next: mlflow run . -e stain -P model={registered.address} -P plate=<folder>")


def _tag(registered: "Registered") -> None:
    import mlflow

    from adipocyte.delivery.runs.runs import VERSION_TAG

    mlflow.set_tags(
        {
            VERSION_TAG: registered.version,
            "adipocyte.alias": registered.alias,
            "adipocyte.reason": registered.reason,
        }
    )


def _tell(registered: "Registered") -> None:
    named = f"{registered.uri} is {registered.alias or 'a version without alias'}"
    if not registered.is_new:
        named += ", registered before from the same runs, store and settings with the same code"
    print(f"{named}: {registered.reason}.")
    for model_id in registered.left_over:
        call = f"mlflow.MlflowClient().delete_logged_model('{model_id}')"
        print(
            f"The logged model {model_id} is left over from an interrupted registration; "
            f'to remove it: python -c "import mlflow; {call}"'
        )


if __name__ == "__main__":
    register()
