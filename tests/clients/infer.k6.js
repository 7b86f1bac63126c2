// k6 against a served model: JSON and binary bodies over HTTP, and gRPC; every answer is checked.
import http from "k6/http";
import grpc from "k6/net/grpc";
import { check } from "k6";

const ROW = Array.from({ length: 16 }, (_, i) => i / 16);
const WANTED = JSON.parse(__ENV.WANTED);
const URL = `http://127.0.0.1:${__ENV.HTTP}/v2/models/linear/infer`;
const client = new grpc.Client();
client.load([__ENV.PROTO_FOLDER], "inference.proto");

function scenario(exec) {
  return {
    executor: "constant-arrival-rate",
    exec,
    rate: Number(__ENV.RATE),
    timeUnit: "1s",
    duration: __ENV.DURATION,
    preAllocatedVUs: 20,
  };
}

export const options = {
  scenarios: { json: scenario("json"), binary: scenario("binary"), grpc: scenario("rpc") },
  thresholds: { checks: ["rate==1"], http_req_failed: ["rate==0"] },
};

function near(given) {
  return given.length === WANTED.length && WANTED.every((value, i) => Math.abs(value - given[i]) < 1e-4);
}

export function json() {
  const tensor = { name: "x", datatype: "FP32", shape: [1, 16], data: ROW };
  const answer = http.post(URL, JSON.stringify({ inputs: [tensor] }));
  check(answer, {
    "JSON is answered": (it) => it.status === 200,
    "JSON is right": (it) => near(it.json("outputs.0.data")),
  });
}

export function binary() {
  const data = new Float32Array(ROW);
  const tensor = { name: "x", datatype: "FP32", shape: [1, 16], parameters: { binary_data_size: data.byteLength } };
  const header = JSON.stringify({ inputs: [tensor], parameters: { binary_data_output: true } });
  const body = new Uint8Array(header.length + data.byteLength);
  for (let i = 0; i < header.length; i++) body[i] = header.charCodeAt(i);
  body.set(new Uint8Array(data.buffer), header.length);
  const answer = http.post(URL, body.buffer, {
    headers: { "Inference-Header-Content-Length": String(header.length), "Content-Type": "application/octet-stream" },
    responseType: "binary",
  });
  const length = Number(answer.headers["Inference-Header-Content-Length"]);
  check(answer, {
    "binary is answered": (it) => it.status === 200,
    "binary is right": (it) => near(Array.from(new Float32Array(it.body.slice(length)))),
  });
}

let connected = false;

export function rpc() {
  if (!connected) {
    client.connect(`127.0.0.1:${__ENV.GRPC}`, { plaintext: true });
    connected = true;
  }
  const answer = client.invoke("inference.GRPCInferenceService/ModelInfer", {
    model_name: "linear",
    inputs: [{ name: "x", datatype: "FP32", shape: [1, 16], contents: { fp32_contents: ROW } }],
  });
  check(answer, {
    "gRPC is answered": (it) => it.status === grpc.StatusOK,
    "gRPC has an output": (it) => it.message.outputs[0].name === "y",
  });
}
