// Calls an endpoint with the AWS SDK for JavaScript, as the request on standard input says, and writes what came of it.
//
//   in   {"endpoint", "region", "credentials": {accessKeyId, secretAccessKey, sessionToken?},
//         "calls": [{"service": "iam", "command": "GetUser", "input": {}, "as"?: "user", "pages"?: 5}
//                   | {"presign": "sts", "query": {}}]}
//   out  [{"answer", "requestId"} | {"pages": [answer]} | {"error": {"name", "message", "status", "requestId"}}
//         | {"url"}]
//
// With `as` later calls may name parts of the answer: "$user.User.Arn". With `pages` the SDK's own paginator asks, for so
// many items a page.

import * as logs from "@aws-sdk/client-cloudwatch-logs";
import * as ec2 from "@aws-sdk/client-ec2";
import * as iam from "@aws-sdk/client-iam";
import * as sts from "@aws-sdk/client-sts";
import { Sha256 } from "@aws-crypto/sha256-js";
import { HttpRequest } from "@smithy/protocol-http";
import { SignatureV4 } from "@smithy/signature-v4";

const services = {
  ec2: [ec2, ec2.EC2Client],
  iam: [iam, iam.IAMClient],
  logs: [logs, logs.CloudWatchLogsClient],
  sts: [sts, sts.STSClient],
};

async function presigned(asked, call) {
  const url = new URL(asked.endpoint);
  const request = new HttpRequest({
    method: "GET",
    protocol: url.protocol,
    hostname: url.hostname,
    port: Number(url.port),
    path: "/",
    query: call.query,
    headers: { host: url.host },
  });
  const signer = new SignatureV4({
    service: call.presign,
    region: asked.region,
    credentials: asked.credentials,
    sha256: Sha256,
  });
  const signed = await signer.presign(request, { expiresIn: 60 });
  const query = Object.entries(signed.query).map(([name, value]) =>
    `${encodeURIComponent(name)}=${encodeURIComponent(value)}`
  );
  return { url: `${asked.endpoint}/?${query.join("&")}` };
}

const named = {};

function filled(value) {
  if (Array.isArray(value)) return value.map(filled);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, filled(member)]));
  }
  if (typeof value !== "string" || !/^\$\w+\./.test(value)) return value;
  const [name, ...path] = value.slice(1).split(".");
  const found = path.reduce((part, step) => part?.[step], named[name]);
  if (found === undefined) throw new Error(`no answer has ${value}`);
  return found;
}

async function paged(client, module, call, input) {
  const pages = [];
  for await (const page of module[`paginate${call.command}`]({ client, pageSize: call.pages }, input)) {
    delete page.$metadata;
    pages.push(page);
  }
  return { pages };
}

async function called(asked, call) {
  const [module, Client] = services[call.service];
  const client = new Client({
    endpoint: asked.endpoint,
    region: asked.region,
    credentials: asked.credentials,
    maxAttempts: 1,
  });
  try {
    const input = filled(call.input ?? {});
    if (call.pages) return await paged(client, module, call, input);
    const answer = await client.send(new module[`${call.command}Command`](input));
    const { requestId } = answer.$metadata;
    delete answer.$metadata;
    if (call.as) named[call.as] = answer;
    return { answer, requestId };
  } catch (error) {
    const { httpStatusCode: status, requestId } = error.$metadata ?? {};
    return { error: { name: error.name, message: error.message, status, requestId } };
  } finally {
    client.destroy();
  }
}

let text = "";
for await (const piece of process.stdin) text += piece;
const asked = JSON.parse(text);
const results = [];
for (const call of asked.calls) results.push(await (call.presign ? presigned(asked, call) : called(asked, call)));
process.stdout.write(JSON.stringify(results));
