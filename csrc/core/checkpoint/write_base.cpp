#include "core/checkpoint/write_base.h"

#include <algorithm>

#include "core/file_writer.h"
#include "core/gguf_writer.h"
#include "core/memory.h"

namespace tmoe {

namespace {

constexpr size_t kChunk = size_t{4} << 20;  // read at a time, so that cancelling takes a few milliseconds

}  // namespace

Status write_base(const GgufFile& file, const std::string& to, const std::unordered_set<std::string>& leave_out,
                  const std::function<void(const LoadProgress&)>& progress, const std::atomic<bool>* cancel, WrittenFile& out) {
    std::vector<const GgufTensor*> tensors;
    for (const GgufTensor& tensor : file.tensors()) {
        if (leave_out.count(tensor.name) == 0) tensors.push_back(&tensor);
    }
    GgufHeaderWriter header;
    header.begin(file.version(), tensors.size(), file.metadata().size());
    for (const GgufEntry& entry : file.metadata()) TMOE_RETURN_IF_ERROR(header.copy(file, entry));
    uint64_t offset = 0, total = 0, done = 0;
    for (const GgufTensor* tensor : tensors) {
        header.tensor(tensor->name, tensor->shape, tensor->type_id, offset);
        offset += round_up(tensor->bytes, file.alignment());
        total += tensor->bytes;
    }
    Sha256 hash;
    FileWriter writer;
    TMOE_RETURN_IF_ERROR(writer.open(to, round_up(header.bytes().size(), file.alignment()) + offset));
    writer.hash_into(&hash);
    TMOE_RETURN_IF_ERROR(writer.write(header.bytes().data(), header.bytes().size()));
    TMOE_RETURN_IF_ERROR(writer.pad(file.alignment()));
    Buffer chunk;
    TMOE_RETURN_IF_ERROR(chunk.allocate(kChunk));
    for (size_t i = 0; i < tensors.size(); i++) {
        const GgufTensor& tensor = *tensors[i];
        for (uint64_t at = 0; at < tensor.bytes; at += kChunk) {
            if (cancel && cancel->load(std::memory_order_relaxed)) return Status(StatusCode::CANCELLED, "converting was cancelled");
            const size_t part = static_cast<size_t>(std::min<uint64_t>(kChunk, tensor.bytes - at));
            TMOE_RETURN_IF_ERROR(file.read(tensor, at, chunk.data(), part));
            TMOE_RETURN_IF_ERROR(writer.write(chunk.data(), part));
        }
        TMOE_RETURN_IF_ERROR(writer.pad(file.alignment()));
        done += tensor.bytes;
        if (progress) progress({tensor.name, i, tensors.size(), done, total});
    }
    out.bytes = writer.position();
    out.sha256 = hash.finish();
    return writer.commit();
}

}  // namespace tmoe
