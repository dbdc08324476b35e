// build.mjs WIT SOURCE OUT: an ES module and StarlingMonkey as one component. What the engine itself could use of WASI is left
// out; what the world imports stays.
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

// The code that it makes for the borders of the component reads texts with a decoder that drops a byte order mark in front: the name
// `\ufeffa` in a certificate would be `a` here, and nowhere else.
const DECODER = 'new TextDecoder()';
const write = fs.writeFile;
let mended = 0;
fs.writeFile = (path, data, ...rest) => {
  if (String(path).endsWith('/initializer.js')) {
    const parts = String(data).split(DECODER);
    mended += parts.length - 1;
    data = parts.join("new TextDecoder('utf-8', { ignoreBOM: true })");
  }
  return write(path, data, ...rest);
};
syncBuiltinESMExports();
const { componentize } = await import('@bytecodealliance/componentize-js');

const [wit, source, out] = process.argv.slice(2);
const { component } = await componentize({
  sourcePath: await fs.realpath(source),
  witPath: wit,
  worldName: 'plugin',
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
if (mended !== 1) {
  throw new Error(`its bindings have ${mended} decoders of texts, where one was mended: look at them again`);
}
await fs.writeFile(out, component);
