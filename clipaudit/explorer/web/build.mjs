// Builds the page's script and style sheet into ../static, where its HTML and icon lie. The same source gives the same bytes.
// bundle.sha256 says which source the committed files are of, for a check that needs no Node.
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.env.CLIPAUDIT_STATIC ?? join(here, "..", "static");

const options = {
  absWorkingDir: here,
  entryPoints: [{ in: "src/main.tsx", out: "app" }, { in: "src/app.css", out: "app" }],
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "chrome110", "firefox115", "safari16"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
};

await mkdir(out, { recursive: true });
if (process.argv.includes("--watch")) await (await esbuild.context(options)).watch();
else {
  await esbuild.build(options);
  const sources = [...(await readdir(join(here, "src"))).sort().map((name) => `src/${name}`), "build.mjs", "package-lock.json", "tsconfig.json"];
  const files = [...sources.map((name) => [name, join(here, name)]), ...["app.css", "app.js"].map((name) => [`../static/${name}`, join(out, name)])];
  const lines = [];
  for (const [name, path] of files) lines.push(`${createHash("sha256").update(await readFile(path)).digest("hex")}  ${name}\n`);
  await writeFile(join(process.env.CLIPAUDIT_STATIC ?? here, "bundle.sha256"), lines.join(""));
}
