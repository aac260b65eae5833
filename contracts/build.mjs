// Compiles the contracts with the npm solc and writes one JSON file for each.
//
//   node contracts/build.mjs [FOLDER]     FOLDER instead of the project's root, for the test that compares
//
// The same sources and the same pinned packages give the same bytes: no metadata is appended, nothing is dated.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const solc = createRequire(import.meta.url)("solc");
const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const target = resolve(process.argv[2] ?? root);

const SHIPPED = "src/payfirst/chain/artifacts";
const FOR_TESTS = "tests/integration/contracts/artifacts";
const CONTRACTS = [
  ["contracts/DevStablecoin.sol", "DevStablecoin", SHIPPED],
  ["contracts/MintToken.sol", "MintToken", SHIPPED],
  ["contracts/MintTokenLaunch.sol", "MintTokenLaunch", SHIPPED],
  ["contracts/Preflight.sol", "Preflight", SHIPPED],
  ["contracts/test/BurnWallet.sol", "BurnWallet", FOR_TESTS],
  ["contracts/test/KeyWallet.sol", "KeyWallet", FOR_TESTS],
  ["contracts/test/CarelessMintToken.sol", "CarelessMintToken", FOR_TESTS],
  ["contracts/test/RevertingMintToken.sol", "RevertingMintToken", FOR_TESTS],
];
const SETTINGS = {
  evmVersion: "cancun",
  viaIR: true,
  optimizer: { enabled: true, runs: 10_000_000 },
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
};

function source(path) {
  return readFileSync(path.startsWith("@") ? join(root, "node_modules", path) : join(root, path), "utf8");
}

function load(path) {
  try {
    return { contents: source(path) };
  } catch (error) {
    return { error: String(error) };
  }
}

function write(folder, artifact) {
  mkdirSync(join(target, folder), { recursive: true });
  const file = join(target, folder, `${artifact.contractName}.json`);
  writeFileSync(file, JSON.stringify(artifact, null, 2) + "\n");
}

const input = {
  language: "Solidity",
  sources: Object.fromEntries(CONTRACTS.map(([path]) => [path, { content: source(path) }])),
  settings: SETTINGS,
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: load }));
for (const message of output.errors ?? []) console.error(message.formattedMessage);
// A warning is a fault here as in the Python code.
if (output.errors?.some((message) => message.severity !== "info")) process.exit(1);

for (const [path, contractName, folder] of CONTRACTS) {
  const { abi, evm } = output.contracts[path][contractName];
  write(folder, {
    contractName,
    compiler: `solc ${solc.version()}`,
    abi,
    bytecode: "0x" + evm.bytecode.object,
    runtimeBytecode: "0x" + evm.deployedBytecode.object,
  });
}

// Compiled by others, see README.md.
write(SHIPPED, {
  contractName: "Multicall3",
  compiler: "solc 0.8.12",
  abi: JSON.parse(source("contracts/Multicall3.abi.json")),
  bytecode: "0x",
  runtimeBytecode: "0x" + source("contracts/Multicall3.runtime.hex").replace(/\s/g, ""),
});
