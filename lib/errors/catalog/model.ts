/** Failures of a model: its file or checkpoint, what is in it, and its load. */
import type { CatalogEntry } from './entry.js'
import { deadline, request } from './entry.js'

const badModel = { severity: 'fatal', scope: 'model', retry: 'never', logLevel: 'error', operator: true } as const

export const model = {
  MODEL_NOT_FOUND: {
    ...request,
    meaning: 'There is no file at the path of the model, and no built-in model has that name.',
    category: 'configuration',
    httpStatus: 404,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['path'],
    suggestedAction: 'Check the path; leave the model out to use the embedded one.',
    native: true
  },
  MODEL_FILE_INVALID: {
    ...badModel,
    meaning:
      'The file is neither a GGUF nor a safetensors file, or it is damaged or cut off, or a file that belongs to it is.',
    category: 'runtime',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['path'],
    suggestedAction: 'Fetch the file again and compare its size and checksum with the source.',
    native: true
  },
  MODEL_VERSION_MISMATCH: {
    ...badModel,
    meaning: 'The file has a version of its format that is not supported.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['expected', 'actual', 'supported'],
    suggestedAction: 'Convert the model to a version of details.supported.',
    native: true
  },
  MODEL_CORRUPTED: {
    ...badModel,
    meaning: 'A file of a model does not hold the bytes that its manifest, or who downloads it, states.',
    category: 'runtime',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['file', 'expectedSha256', 'actualSha256'],
    suggestedAction:
      'Run the `convert` command again with the same source (only damaged files are written anew), or fetch the file again.',
    native: true
  },
  CHECKPOINT_INVALID: {
    ...badModel,
    meaning: 'The manifest of a tiered checkpoint is damaged, contradicts itself, or does not fit the files beside it.',
    category: 'runtime',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['file'],
    suggestedAction: 'Convert the model again; `tiered-moe verify` lists everything that is wrong with a checkpoint.',
    native: false
  },
  CHECKPOINT_MISMATCH: {
    ...request,
    meaning:
      'A folder that is to give a model one of its tiers is of another model, or has other bytes for its experts.',
    category: 'configuration',
    operator: true,
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['folder', 'tier'],
    suggestedAction:
      'Name a folder that was converted from the same file (details.expected and details.actual are checksums), or load that model beside this one.',
    native: false
  },
  ARCHITECTURE_UNSUPPORTED: {
    ...badModel,
    meaning: 'The model has an architecture that is not supported.',
    category: 'configuration',
    operator: false,
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['architecture'],
    suggestedAction: 'Use a Mixture-of-Experts model with an architecture of details.supported.',
    native: false
  },
  METADATA_INVALID: {
    ...badModel,
    meaning: "A value of the model's metadata is missing, has the wrong type, is out of range, or is not supported.",
    category: 'runtime',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['key', 'found', 'allowed'],
    suggestedAction: 'Convert the model again with a current converter; details.key names the value.',
    native: false
  },
  TENSOR_TYPE_UNSUPPORTED: {
    ...badModel,
    meaning: 'A tensor has a weight type that is not supported.',
    category: 'configuration',
    operator: false,
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['tensor', 'type', 'supported'],
    suggestedAction: 'Quantise the model to a type of details.supported (`tiered-moe quantize` writes Q8_0 and Q4_0).',
    native: true
  },
  TENSOR_MISSING: {
    ...badModel,
    meaning: 'A tensor that the architecture needs is not in the file.',
    category: 'runtime',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['tensor'],
    suggestedAction: 'Convert the model again; of a split model, join the parts first.',
    native: true
  },
  TENSOR_SHAPE_MISMATCH: {
    ...badModel,
    meaning: "A tensor has another shape than the model's metadata says.",
    category: 'runtime',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['tensor', 'expected', 'actual'],
    suggestedAction: 'Convert the model again; details has the expected and the actual shape.',
    native: true
  },
  CONFIG_GROUP_COUNT_MISMATCH: {
    ...badModel,
    meaning:
      'The configuration, the manifest (or metadata) and the router do not have the same number of expert groups.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['configured', 'manifest', 'router'],
    suggestedAction: "Make the group counts agree; details has the configured, the manifest's and the router's.",
    native: false
  },
  TOKENIZER_UNSUPPORTED: {
    ...request,
    meaning: 'The model has a tokenizer that is not supported, or none.',
    category: 'configuration',
    scope: 'model',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'TokenizerError',
    details: ['tokenizer'],
    suggestedAction:
      'Pass token ids (promptTokens) instead of text, or use a model with a byte-level or SentencePiece BPE tokenizer.',
    native: false
  },
  CHAT_TEMPLATE_INVALID: {
    ...request,
    meaning: 'The model has no chat template, or the template failed on these messages.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'TokenizerError',
    details: ['reason'],
    suggestedAction:
      "Pass a prompt instead of messages, or use an instruction-tuned model; details.reason has the template's own message.",
    native: false
  },
  MODEL_NOT_LOADED: {
    ...request,
    meaning: 'No model with this id is loaded (generating never loads one by itself), or it was unloaded meanwhile.',
    category: 'configuration',
    httpStatus: 404,
    exitCode: 1,
    engineCode: 'ModelNotLoaded',
    details: ['model', 'loaded'],
    suggestedAction: 'Call loadModel() first and use the id it returns; details.loaded lists the ids there are.',
    native: true
  },
  MODEL_ALREADY_LOADED: {
    ...request,
    meaning: 'A model with this id is loaded already, or is being loaded or unloaded.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['model', 'loaded'],
    suggestedAction:
      'Use the loaded model, give the new one another id, or unload the old one first and wait until that is done.',
    native: false
  },
  MODEL_LOAD_TIMEOUT: {
    ...deadline,
    meaning: 'Loading a model took longer than its timeoutMs.',
    suggestedAction: 'Raise timeoutMs, or use a smaller weight type or a faster disk.'
  },
  MODEL_CHANGED: {
    ...request,
    meaning:
      'A model is not the one that was loaded before, or that its request began with: going on would give another text.',
    category: 'configuration',
    operator: true,
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    details: ['path'],
    suggestedAction:
      'Put the file back that details.expected describes and load it as it was, or begin the request again with createGenerator().',
    native: false
  }
} as const satisfies Record<string, CatalogEntry>
