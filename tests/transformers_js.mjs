// What transformers.js makes of published folders: node transformers_js.mjs ROOT CASES
import { AutoProcessor, AutoTokenizer, Tensor, VisionEncoderDecoderModel, env } from "@huggingface/transformers";
import fs from "fs";

const [root, cases] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = root;
const found = {};
for (const [name, { pixels, shape }] of Object.entries(JSON.parse(fs.readFileSync(cases)))) {
  const model = await VisionEncoderDecoderModel.from_pretrained(name);
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const processor = await AutoProcessor.from_pretrained(name);
  const inputs = new Tensor("float32", Float32Array.from(pixels), shape);
  const tokens = await model.generate({ inputs });
  found[name] = {
    tokens: tokens.tolist().map((row) => row.map(Number)),
    texts: tokenizer.batch_decode(tokens, { skip_special_tokens: true }),
    processor: processor.image_processor.constructor.name,
  };
}
console.log(JSON.stringify(found));
