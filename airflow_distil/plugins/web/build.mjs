// Builds ../static from src: `npm ci && npm run build`. The same sources and versions make the same bytes.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const out = process.argv[2] ?? "../static";
const { metafile } = await build({
  entryPoints: { app: "src/main.tsx", theme: "src/theme.ts" },
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022", "chrome109", "firefox115", "safari16.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  define: { "process.env.NODE_ENV": '"production"' },
  outdir: out,
  metafile: true,
  logLevel: "warning",
  legalComments: "none", // they stand, whole, in LICENSES.txt
});
writeFileSync(join(out, "page.html"), readFileSync("src/page.html"));

const packages = new Set(
  Object.keys(metafile.inputs)
    .map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1])
    .filter(Boolean),
);
const licences = [...packages].sort().map((name) => {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json")));
  const file = readdirSync(folder).find((each) => /^licen[cs]e(\.\w+)?$/i.test(each));
  return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8").trim() : ""}\n`;
});
writeFileSync(join(out, "LICENSES.txt"), `app.js contains these packages:\n\n${licences.join("\n----\n\n")}`);
