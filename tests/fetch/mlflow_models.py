"""Run by MLflow's own interpreter: registers a model of each flavor, and prints the files of the ONNX one."""

import json
import sys
from pathlib import Path

import mlflow
from mlflow.models import Model
from onnx import TensorProto, helper

address, folder = sys.argv[1], Path(sys.argv[2])
mlflow.set_tracking_uri(address)
client = mlflow.MlflowClient()

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy")
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
with mlflow.start_run() as run:
    logged = mlflow.onnx.log_model(model, name="net", registered_model_name="ranker", pip_requirements=[])
client.set_registered_model_alias("ranker", "champion", "1")

# What mlflow.pytorch and mlflow.sklearn write beside the weights, without the frameworks.
for name, flavor in (("net", {"pytorch": {"model_data": "data"}}), ("trees", {"sklearn": {"pickled_model": "m.pkl"}})):
    place = folder / name
    (place / "data").mkdir(parents=True)
    (place / "data" / "model.pt2").write_bytes(b"exported")
    Model(flavors=flavor).save(str(place / "MLmodel"))
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(place), "model")
    client.create_registered_model(name)
    client.create_model_version(name, source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id)

names = [Path(each.path).name for each in client.list_logged_model_artifacts(logged.model_id)]
print(json.dumps({"ranker": sorted(names)}))
