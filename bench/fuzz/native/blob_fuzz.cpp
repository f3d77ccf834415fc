// Blobs of a checkpoint: a layout, places and checksums from the begin of the input, the rest is the file. Every expert is read and checked.
#include "core/checkpoint/measure_shard.h"
#include "core/memory.h"
#include "core/store/expert_source.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    using namespace tmoe;
    const fuzz::Clock clock;
    fuzz::Choices choices(data, bytes);
    std::vector<DType> types;   // whose rows of 32 columns are whole blocks
    for (const DTypeInfo& info : kDTypes) {
        if (info.block <= 32) types.push_back(info.type);
    }
    const auto type = [&] { return types[choices.take<uint8_t>() % types.size()]; };
    const size_t layers = 1 + choices.take<uint8_t>() % 3, experts = 1 + choices.take<uint8_t>() % 5;
    const DType gate = type(), up = type(), down = type();
    const size_t width = 32 * (1 + choices.take<uint8_t>() % 8), hidden = 32 * (1 + choices.take<uint8_t>() % 8);
    const ExpertLayout layout = expert_layout(gate, up, down, width, hidden);
    std::vector<std::vector<BlobPlace>> places(layers, std::vector<BlobPlace>(experts));
    std::vector<BlobRange> ranges;
    for (auto& layer : places) {
        for (BlobPlace& place : layer) {
            // What the addon's arguments let through: an index of a file, and a multiple of the alignment.
            place.file = choices.take<uint8_t>() % 8 == 0 ? kInArchive : 0;
            place.offset = (choices.take<uint8_t>() % 8 == 0 ? choices.take<uint64_t>() : choices.take<uint8_t>() % 16) * kBlobAlignment;
            place.crc32c = choices.take<uint32_t>();
            ranges.push_back({place.offset, layout.bytes});
        }
    }
    const fuzz::MemoryFile memory(choices.rest(), choices.left());
    WrittenExperts measured;
    (void)measure_shard(memory.path(), ranges, [](uint64_t) {}, nullptr, measured).ok();

    std::shared_ptr<ExpertSource> source;
    if (!open_blob_source({memory.path()}, places, std::vector<ExpertLayout>(layers, layout), source).ok()) return 0;
    Buffer blob;
    if (!blob.allocate(layout.bytes).ok()) return 0;
    ReadScratch scratch;
    for (uint32_t layer = 0; layer < layers; layer++) {
        for (uint32_t expert = 0; expert < experts; expert++) {
            if (!source->local(layer, expert)) continue;
            std::vector<uint32_t> sums(source->pieces(layer, expert));
            bool whole = true;
            for (size_t piece = 0; piece < sums.size(); piece++) whole = whole && source->read(layer, expert, piece, blob.data(), scratch, nullptr, sums[piece]).ok();
            if (whole) (void)source->check(layer, expert, sums).ok();
        }
    }
    return 0;
}
