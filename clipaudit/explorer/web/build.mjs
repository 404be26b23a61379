// Builds the page into ../static: one script, one style sheet, the page and its icon. The same source gives the same bytes.
import { copyFile, mkdir } from "node:fs/promises";
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
for (const name of ["index.html", "icon.svg"]) await copyFile(join(here, "src", name), join(out, name));
if (process.argv.includes("--watch")) await (await esbuild.context(options)).watch();
else await esbuild.build(options);
