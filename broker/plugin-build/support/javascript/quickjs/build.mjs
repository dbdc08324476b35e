// build.mjs WIT SOURCE OUT: an ES module and QuickJS as one component. WASI is answered inside of it; asynchronous
// exports would need a host that waits for them.
import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from 'componentize-qjs';

const [wit, source, out] = process.argv.slice(2);
const { component } = await componentize({
  witPath: wit,
  world: 'plugin',
  jsSource: await readFile(source, 'utf8'),
  jsPath: source,
  stubWasi: true,
  sync: true,
});
await writeFile(out, component);
