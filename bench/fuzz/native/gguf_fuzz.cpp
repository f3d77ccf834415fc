// GGUF headers: opens the input as a file, looks at everything, and reads the ends of every tensor.
#include "core/gguf.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    using namespace tmoe;
    const fuzz::Clock clock;
    const fuzz::MemoryFile memory(data, bytes);
    std::shared_ptr<GgufFile> file;
    if (!GgufFile::open(memory.path(), file).ok()) return 0;
    size_t seen = 0;
    for (const GgufEntry& entry : file->metadata()) {
        if (file->entry(entry.key) != &entry || entry.offset + entry.bytes > bytes) __builtin_trap();
        seen += entry.value.text.size() + entry.value.numbers.size() + entry.value.strings.size();
    }
    // What was accepted has to be readable: sizes and places were all checked.
    for (const GgufTensor& tensor : file->tensors()) {
        if (file->find(tensor.name) != &tensor || tensor.bytes > bytes || tensor.offset > bytes - tensor.bytes) __builtin_trap();
        uint8_t ends[2];
        if (tensor.bytes == 0) continue;
        if (!file->read(tensor, 0, &ends[0], 1).ok() || !file->read(tensor, tensor.bytes - 1, &ends[1], 1).ok()) __builtin_trap();
        seen += ends[0] + ends[1];
    }
    return seen == SIZE_MAX ? 1 : 0;
}
