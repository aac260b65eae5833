// Buys with one of the official npm clients and follows the payment until it is minted.
//
//   node buy.mjs CLIENT GENERATION URL QUANTITY      the buyer's key is in BUYER_KEY
//
// The last line is one JSON object: what was answered, which header paid, and the payment as it ended.

import axios from "axios";
import { readFileSync } from "node:fs";
import { createWalletClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

const POLL_MS = 200;
const FOLLOW_MS_MAX = 60_000;

const [client, generation, url, quantity] = process.argv.slice(2);
const account = privateKeyToAccount(process.env.BUYER_KEY);
const body = JSON.stringify({ quantity: Number(quantity) });
const headers = { "Content-Type": "application/json" };
const paidWith = new Set();

function note(names) {
  for (const name of names) {
    if (["x-payment", "payment-signature"].includes(name.toLowerCase())) paidWith.add(name.toLowerCase());
  }
}

/** fetch as it is; for the first generation without the header that an older client would not look at. */
async function plainFetch(input, init) {
  const request = new Request(input, init);
  note(request.headers.keys());
  const response = await fetch(request);
  if (generation !== "v1" || !response.headers.has("payment-required")) return response;
  const left = new Headers(response.headers);
  left.delete("payment-required");
  return new Response(await response.arrayBuffer(), { status: response.status, headers: left });
}

function plainAxios() {
  const instance = axios.create();
  instance.interceptors.request.use((config) => {
    note(Object.keys(config.headers.toJSON()));
    return config;
  });
  const withoutOffer = (response) => {
    if (generation === "v1") delete response.headers["payment-required"];
    return response;
  };
  instance.interceptors.response.use(withoutOffer, (error) => {
    if (error.response) withoutOffer(error.response);
    return Promise.reject(error);
  });
  return instance;
}

async function secondGeneration() {
  const { x402Client } = await import("@x402/fetch");
  const { registerExactEvmScheme } = await import("@x402/evm/exact/client");
  const paying = new x402Client();
  registerExactEvmScheme(paying, { signer: account });
  return paying;
}

const wallet = () => createWalletClient({ account, transport: http("http://127.0.0.1:1"), chain: baseSepolia });

async function byFetch(fetchWithPayment) {
  const response = await fetchWithPayment(url, { method: "POST", headers, body });
  return { status: response.status, headers: [...response.headers.keys()], body: await response.json() };
}

async function byAxios(instance) {
  const response = await instance.post(url, body, { headers });
  return { status: response.status, headers: Object.keys(response.headers), body: response.data };
}

const clients = {
  "@x402/fetch": async () => {
    const { wrapFetchWithPayment } = await import("@x402/fetch");
    return byFetch(wrapFetchWithPayment(plainFetch, await secondGeneration()));
  },
  "@x402/axios": async () => {
    const { wrapAxiosWithPayment } = await import("@x402/axios");
    return byAxios(wrapAxiosWithPayment(plainAxios(), await secondGeneration()));
  },
  "x402-fetch": async () => {
    const { wrapFetchWithPayment } = await import("x402-fetch");
    return byFetch(wrapFetchWithPayment(plainFetch, wallet()));
  },
  "x402-axios": async () => {
    const { withPaymentInterceptor } = await import("x402-axios");
    return byAxios(withPaymentInterceptor(plainAxios(), wallet()));
  },
};

async function follow(statusUrl) {
  const end = Date.now() + FOLLOW_MS_MAX;
  for (;;) {
    const payment = await (await fetch(statusUrl)).json();
    const minted = payment.mints?.length > 0 && payment.mints.every((mint) => mint.status === "completed");
    if (minted || payment.status === "failed" || Date.now() > end) return payment;
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

const answer = await clients[client]();
const payment = answer.status === 202 ? await follow(answer.body.statusUrl) : null;
const manifest = new URL(`./node_modules/${client}/package.json`, import.meta.url);
const { version } = JSON.parse(readFileSync(manifest, "utf8"));
console.log(JSON.stringify({ client, version, paidWith: [...paidWith], answer, payment }));
