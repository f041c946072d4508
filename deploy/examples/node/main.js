// gradwire from Node, beside closed forms: node main.js [ADDRESS]; GRADWIRE_CA_FILE and GRADWIRE_TOKEN as for the other clients.

import assert from "node:assert/strict";
import { Client, GradwireError, elements, output, tensor } from "./gradwire.js";

const SIZE = 4;
const vector = { dtype: "DTYPE_FLOAT64", shape: [SIZE] };
const scalar = { dtype: "DTYPE_FLOAT64", shape: [] };
const apply = (primitive, operands, results, params = {}) => ({ primitive, operands, results, params });
const value = (number) => ({ number });

// f(x) = sum of x sin x: value 0 is x, and each equation gives the next.
const wave = {
  inputs: [vector],
  equations: [
    apply("sin", [value(0)], [vector]),
    apply("multiply", [value(0), value(1)], [vector]),
    apply("sum", [value(2)], [scalar], { axes: { listValue: { items: [{ intValue: 0 }] } } }),
  ],
  outputs: [value(3)],
};

// y = sinh x, whose Jacobian is diagonal: the logarithm of its determinant is the sum of log cosh x.
const stretch = { inputs: [vector], equations: [apply("sinh", [value(0)], [vector])], outputs: [value(1)] };

function show(title, found, wanted) {
  const near = [...found].every((each, position) => Math.abs(each - wanted[position]) <= 1e-12 * (1 + Math.abs(wanted[position])));
  assert.ok(near && found.length === wanted.length, `${title}: needed ${wanted}, got ${found}`);
  console.log(`${title.padEnd(24)} ${[...found].map((each) => each.toFixed(12)).join("  ")}`);
}

const client = new Client(process.argv[2] ?? "localhost:50051", {
  caFile: process.env.GRADWIRE_CA_FILE,
  token: process.env.GRADWIRE_TOKEN,
});
try {
  const x = [0.5, 1, 1.5, 2];
  const sum = (terms) => terms.reduce((total, each) => total + each, 0);

  const name = await client.register(wave);
  const [[f], [slope]] = await client.evaluate(wave, [tensor(x)], [output(), output("grad")]);
  show("value", elements(f), [sum(x.map((each) => each * Math.sin(each)))]);
  show("gradient", elements(slope), x.map((each) => Math.sin(each) + each * Math.cos(each)));

  const [[sign, logarithm]] = await client.evaluate(stretch, [tensor(x)], [output("jacobianSlogdet")]);
  show("sign of determinant", elements(sign), [1]);
  show("logarithm of it", elements(logarithm), [sum(x.map((each) => Math.log(Math.cosh(each))))]);

  // The server forgets the program, as one that was restarted; it says so, and is sent it again.
  await client.call("DeleteProgram", { name });
  await assert.rejects(client.call("Evaluate", { programName: name, inputs: [tensor(x)], outputs: [output()] }), (failure) => {
    console.log(`${"forgotten".padEnd(24)} ${failure.reason}`);
    return failure instanceof GradwireError && failure.reason === "PROGRAM_MISSING";
  });
  const [[again]] = await client.evaluate(wave, [tensor(x)], [output()]);
  show("sent again", elements(again), elements(f));

  // What is wrong is told by its reason, and the values of the text.
  await assert.rejects(client.evaluate(wave, [tensor([1, 2, 3])], [output()]), (failure) => {
    console.log(`${failure.reason.padEnd(24)} ${failure.message}`);
    return failure.code === "INVALID_ARGUMENT" && failure.reason === "SHAPE_MISMATCH";
  });
} finally {
  client.close();
}
