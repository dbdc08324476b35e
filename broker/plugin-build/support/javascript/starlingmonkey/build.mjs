// build.mjs WIT SOURCE OUT: an ES module and StarlingMonkey as one component. What the engine itself could use of WASI is left
// out; what the world imports stays.
import { realpath, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [wit, source, out] = process.argv.slice(2);
const { component } = await componentize({
  sourcePath: await realpath(source),
  witPath: wit,
  worldName: 'plugin',
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
await writeFile(out, component);
