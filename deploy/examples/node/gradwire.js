// A small client of gradwire.v1: programs are named once they are known to the server, and sent again where they are not.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const here = dirname(fileURLToPath(import.meta.url));
const PROTOS = process.env.GRADWIRE_PROTOS ?? join(here, "..", "..", "..", "proto");
const OPTIONS = { longs: Number, enums: String, bytes: Buffer, defaults: true, oneofs: true, includeDirs: [PROTOS] };
const TIMEOUT_MS = 60_000;
const LARGEST_BYTES = 64 * 2 ** 20;

// Calls are shared among all addresses of a name, and repeated where a server sends them elsewhere.
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{ service: "gradwire.v1.DifferentiationService" }],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.05s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

// What the trailer of a failed call holds, of google.rpc.
const { Status, ErrorInfo } = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`, { keepCase: true }).root.nested;

/** An error of the service: `reason` says which, `metadata` holds the values that the text names. */
export class GradwireError extends Error {
  constructor(failure) {
    const [trailer] = failure.metadata?.get("grpc-status-details-bin") ?? [];
    const details = trailer ? Status.decode(trailer).details : [];
    const found = details.find((each) => each.type_url.endsWith("/google.rpc.ErrorInfo"));
    const info = found ? ErrorInfo.decode(found.value) : { reason: grpc.status[failure.code], metadata: {} };
    super(failure.details);
    this.name = "GradwireError";
    this.code = grpc.status[failure.code];
    this.reason = info.reason;
    this.metadata = info.metadata;
  }
}

/** The elements of an array as a tensor of the wire: float64, of a shape. */
export function tensor(elements, shape = [elements.length]) {
  const data = Buffer.alloc(elements.length * 8);
  elements.forEach((element, position) => data.writeDoubleLE(element, position * 8));
  return { dtype: "DTYPE_FLOAT64", shape, data };
}

/** The elements of a float64 tensor of the wire. */
export function elements({ data }) {
  return Float64Array.from({ length: data.length / 8 }, (_, position) => data.readDoubleLE(position * 8));
}

/** An output of a request: the values of a program, or what a transform makes of it, such as `output("grad")`. */
export function output(transform, argnums = [0]) {
  return { transforms: transform ? [{ [transform]: { argnums } }] : [] };
}

export class Client {
  #names = new Map();

  /**
   * @param target an address, or several: `dns:///NAME:PORT`.
   * @param settings `caFile`: the certificates of who signs for the server, PEM; `token`: the bearer token.
   */
  constructor(target, { caFile, token } = {}) {
    const definition = protoLoader.loadSync("gradwire/v1/differentiation_service.proto", OPTIONS);
    const { DifferentiationService } = grpc.loadPackageDefinition(definition).gradwire.v1;
    const credentials = caFile ? grpc.credentials.createSsl(readFileSync(caFile)) : grpc.credentials.createInsecure();
    this.stub = new DifferentiationService(target, credentials, {
      "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
      "grpc.max_receive_message_length": LARGEST_BYTES,
    });
    this.token = token;
  }

  /** Call an rpc; its answer, or a GradwireError. */
  call(rpc, request) {
    const metadata = new grpc.Metadata();
    if (this.token) metadata.set("authorization", `Bearer ${this.token}`);
    const deadline = Date.now() + TIMEOUT_MS;
    return new Promise((resolve, reject) => {
      this.stub[rpc](request, metadata, { deadline }, (failure, answer) => (failure ? reject(new GradwireError(failure)) : resolve(answer)));
    });
  }

  /** Store a program and give its name. Doing so again changes nothing. */
  async register(program) {
    const { name } = await this.call("CreateProgram", { program });
    this.#names.set(program, name);
    return name;
  }

  /**
   * Evaluate outputs of a program at inputs; an array of tensors for each output.
   *
   * The program is named where it was registered. A server that does not hold it, for it forgot it or is another one, says
   * PROGRAM_MISSING, and is sent it once.
   */
  async evaluate(program, inputs, outputs) {
    const name = this.#names.get(program);
    const source = name ? { programName: name } : { program };
    const request = { inputs, outputs };
    let answer;
    try {
      answer = await this.call("Evaluate", { ...request, ...source });
    } catch (failure) {
      if (failure.reason !== "PROGRAM_MISSING") throw failure;
      answer = await this.call("Evaluate", { ...request, program });
    }
    this.#names.set(program, answer.programName);
    return answer.results.map(({ results }) => results.map(({ dense }) => dense));
  }

  close() {
    this.stub.close();
  }
}
