#include "core/checkpoint/make_experts.h"

#include <algorithm>
#include <cmath>

#include "core/gguf.h"
#include "core/tie_hash.h"
#include "cpu/kernels.h"
#include "quant/blocks.h"
#include "quant/repack.h"

namespace tmoe {

namespace {

/** Makes one blob from rows of floats. */
class FloatMaker : public BlobMaker {
  public:
    explicit FloatMaker(const ExpertLayout& layout) : layout_(layout) {}

    Status check() const {
        for (const ExpertPart* part : {&layout_.gate, &layout_.up, &layout_.down}) {
            if (can_encode(part->type)) continue;
            const char* name = dtype_info(part->type).name;
            return Status(StatusCode::TENSOR_TYPE_UNSUPPORTED, std::string("weights of the type ") + name + " can be replaced, but not computed anew")
                .with("tensor", part == &layout_.gate ? "gate" : part == &layout_.up ? "up" : "down")
                .with("type", name)
                .with("supported", encodable_type_names());
        }
        return {};
    }

    size_t count() const override { return 1; }
    size_t blob_bytes() const override { return layout_.bytes; }

  protected:
    /** Encodes and packs the rows of a part; `row(index, values)` gives the floats of one. */
    template <class Fn> Status make_part(const ExpertPart& part, uint8_t* blob, Fn row) const {
        const size_t bytes = row_bytes(part.type, part.columns), group = packed_group_bytes(part.type, part.columns);
        Buffer values, encoded;
        TMOE_RETURN_IF_ERROR(values.allocate(part.columns * sizeof(float)));
        TMOE_RETURN_IF_ERROR(encoded.allocate(kLanes * bytes));
        for (size_t first = 0; first < part.rows; first += kLanes) {
            const size_t rows = std::min<size_t>(kLanes, part.rows - first);
            for (size_t r = 0; r < rows; r++) {
                row(first + r, values.as<float>());
                if (encode_row(part.type, values.as<float>(), encoded.data() + r * bytes, part.columns)) continue;
                return Status(StatusCode::RUNTIME_NAN_DETECTED, format("row %zu of the new expert has values that are not finite, or too large for %s", first + r, dtype_info(part.type).name));
            }
            pack_group(part.type, encoded.data(), rows, part.columns, blob + part.offset + first / kLanes * group);
        }
        return {};
    }

    ExpertLayout layout_;
};

class MergeMaker final : public FloatMaker {
  public:
    MergeMaker(const ExpertLayout& layout, std::unique_ptr<BlobMaker> source, std::vector<float> shares)
        : FloatMaker(layout), source_(std::move(source)), shares_(std::move(shares)) {}

    Status fill(size_t, uint8_t* blob, Buffer& scratch) const override {
        std::vector<Buffer> blobs(shares_.size());
        for (size_t i = 0; i < blobs.size(); i++) {
            TMOE_RETURN_IF_ERROR(blobs[i].allocate(layout_.bytes));
            TMOE_RETURN_IF_ERROR(source_->fill(i, blobs[i].data(), scratch));
        }
        for (const ExpertPart* part : {&layout_.gate, &layout_.up, &layout_.down}) {
            Buffer encoded, one;
            TMOE_RETURN_IF_ERROR(encoded.allocate(row_bytes(part->type, part->columns)));
            TMOE_RETURN_IF_ERROR(one.allocate(part->columns * sizeof(float)));
            const float* values = one.as<float>();
            TMOE_RETURN_IF_ERROR(make_part(*part, blob, [&](size_t row, float* sum) {
                std::fill(sum, sum + part->columns, 0.0f);
                for (size_t i = 0; i < blobs.size(); i++) {
                    unpack_row(part->type, blobs[i].data() + part->offset, row, part->columns, encoded.data());
                    decode_row(part->type, encoded.data(), one.as<float>(), part->columns);
                    for (size_t column = 0; column < part->columns; column++) sum[column] = std::fma(shares_[i], values[column], sum[column]);
                }
            }));
        }
        return {};
    }

  private:
    std::unique_ptr<BlobMaker> source_;
    std::vector<float> shares_;
};

class InitMaker final : public FloatMaker {
  public:
    InitMaker(const ExpertLayout& layout, uint64_t seed) : FloatMaker(layout), seed_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0} {}

    Status fill(size_t, uint8_t* blob, Buffer&) const override {
        const ExpertPart* const parts[] = {&layout_.gate, &layout_.up, &layout_.down};
        for (uint32_t p = 0; p < 3; p++) {
            const size_t columns = parts[p]->columns;
            const float step = 1.0f / std::sqrt(static_cast<float>(columns)) / 8388608.0f;
            TMOE_RETURN_IF_ERROR(make_part(*parts[p], blob, [&](size_t row, float* values) {
                for (size_t column = 0; column < columns; column++) {
                    const uint32_t hash = tie_hash(seed_, p, static_cast<uint32_t>(row), static_cast<uint32_t>(column));
                    values[column] = static_cast<float>(static_cast<int32_t>(hash >> 8) - 8388608) * step;
                }
            }));
        }
        return {};
    }

  private:
    uint32_t seed_[4];
};

}  // namespace

Status merge_experts(const std::vector<std::string>& files, const ExpertLayout& layout, std::vector<StoredBlob> blobs, std::vector<double> weights,
                     std::unique_ptr<BlobMaker>& out) {
    double sum = 0;
    bool sound = blobs.size() == weights.size();
    for (const double weight : weights) {
        sound = sound && weight >= 0;
        sum += weight;
    }
    if (!sound || !(sum > 0) || !std::isfinite(sum)) {
        return Status(StatusCode::VALIDATION_ERROR, "weights: one per expert, none negative, with a positive and finite sum").with("argument", "weights");
    }
    std::vector<float> shares;
    for (const double weight : weights) shares.push_back(static_cast<float>(weight / sum));
    std::unique_ptr<BlobMaker> source;
    TMOE_RETURN_IF_ERROR(copy_experts(files, layout.bytes, std::move(blobs), source));
    auto maker = std::make_unique<MergeMaker>(layout, std::move(source), std::move(shares));
    TMOE_RETURN_IF_ERROR(maker->check());
    out = std::move(maker);
    return {};
}

Status init_expert(const ExpertLayout& layout, uint64_t seed, std::unique_ptr<BlobMaker>& out) {
    auto maker = std::make_unique<InitMaker>(layout, seed);
    TMOE_RETURN_IF_ERROR(maker->check());
    out = std::move(maker);
    return {};
}

}  // namespace tmoe
