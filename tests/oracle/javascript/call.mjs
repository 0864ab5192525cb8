// Calls an endpoint with the AWS SDK for JavaScript, as the request on standard input says, and writes what came of it.
//
//   in   {"endpoint", "region", "credentials": {accessKeyId, secretAccessKey, sessionToken?},
//         "calls": [{"service": "iam", "command": "GetUser", "input": {}} | {"presign": "sts", "query": {}}]}
//   out  [{"answer"} | {"error": {"name", "message", "status"}} | {"url"}]

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

async function called(asked, call) {
  const [module, Client] = services[call.service];
  const client = new Client({
    endpoint: asked.endpoint,
    region: asked.region,
    credentials: asked.credentials,
    maxAttempts: 1,
  });
  try {
    const answer = await client.send(new module[`${call.command}Command`](call.input ?? {}));
    delete answer.$metadata;
    return { answer };
  } catch (error) {
    return { error: { name: error.name, message: error.message, status: error.$metadata?.httpStatusCode } };
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
