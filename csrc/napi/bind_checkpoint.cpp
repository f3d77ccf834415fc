// Files of a tiered checkpoint: writing them, and measuring what they hold.
#include <algorithm>
#include <thread>
#include <unordered_set>

#include "core/checkpoint/make_experts.h"
#include "core/checkpoint/measure_shard.h"
#include "core/checkpoint/write_base.h"
#include "core/checkpoint/write_experts.h"
#include "napi/bindings.h"
#include "napi/file_args.h"
#include "napi/objects.h"

namespace tmoe {

namespace {

constexpr int64_t kMostWeights = int64_t{1} << 24;         // along one dimension of an expert: no size in bytes overflows

Status read_progress(napi_env env, napi_value options, Keep& keep) {
    napi_value on_progress = nullptr;
    TMOE_RETURN_IF_ERROR(read_property(env, options, "onProgress", on_progress));
    return read_optional_function(env, on_progress, "options.onProgress", keep.progress);
}

std::function<void(uint64_t)> bytes_sender(const Ticket& ticket, bool wanted) {
    if (!wanted) return nullptr;
    return [&ticket](uint64_t bytes) { ticket.progress([bytes](napi_env env) { return js_number(env, static_cast<double>(bytes)); }); };
}

void define_file(napi_env env, napi_value object, const WrittenFile& file) {
    define(env, object, "bytes", js_number(env, static_cast<double>(file.bytes)));
    define(env, object, "sha256", js_text(env, hex(file.sha256)));
}

Status define_blobs(napi_env env, napi_value object, const std::vector<WrittenBlob>& blobs) {
    napi_value crcs = nullptr, hashes = nullptr, memory = nullptr;
    void* data = nullptr;
    if (napi_create_arraybuffer(env, blobs.size() * sizeof(uint32_t), &data, &memory) != napi_ok ||
        napi_create_typedarray(env, napi_uint32_array, blobs.size(), memory, 0, &crcs) != napi_ok ||
        napi_create_array_with_length(env, blobs.size(), &hashes) != napi_ok) {
        return exception_pending();
    }
    for (size_t i = 0; i < blobs.size(); i++) {
        static_cast<uint32_t*>(data)[i] = blobs[i].crc32c;
        napi_set_element(env, hashes, static_cast<uint32_t>(i), js_text(env, hex(blobs[i].sha256)));
    }
    define(env, object, "crc32c", crcs);
    define(env, object, "blobSha256", hashes);
    return {};
}

napi_value part_object(napi_env env, const ExpertPart& part) {
    napi_value out = nullptr;
    if (napi_create_object(env, &out) != napi_ok) return nullptr;
    define(env, out, "type", js_text(env, dtype_info(part.type).name));
    define(env, out, "rows", js_number(env, static_cast<double>(part.rows)));
    define(env, out, "columns", js_number(env, static_cast<double>(part.columns)));
    define(env, out, "offset", js_number(env, static_cast<double>(part.offset)));
    define(env, out, "bytes", js_number(env, static_cast<double>(part.bytes)));
    return out;
}

Status layout_of_expert(Call& call, napi_value& result) {
    napi_env env = call.env;
    ExpertLayout layout;
    TMOE_RETURN_IF_ERROR(read_layout(env, call.args[0], layout));
    result = layout_object(env, layout);
    return {};
}

class WriteBaseTask : public Task {
  public:
    WriteBaseTask(std::shared_ptr<GgufFile> file, std::string to, std::unordered_set<std::string> leave_out, bool progress, CancelFlag cancel)
        : file_(std::move(file)), to_(std::move(to)), leave_out_(std::move(leave_out)), progress_(progress), cancel_(std::move(cancel)) {}
    Status run(const Ticket& ticket) override {
        return write_base(*file_, to_, leave_out_, progress_sender(ticket, progress_), cancel_.get(), written_);
    }
    void release() override { file_.reset(); }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        if (napi_create_object(environment.env, &value) != napi_ok) return exception_pending();
        define_file(environment.env, value, written_);
        return {};
    }
    void cancel() override { cancel_->store(true); }

  private:
    std::shared_ptr<GgufFile> file_;
    std::string to_;
    std::unordered_set<std::string> leave_out_;
    bool progress_;
    CancelFlag cancel_;
    WrittenFile written_;
};

Status write_base_file(Call& call, napi_value& result) {
    napi_env env = call.env;
    GgufHandle* file = nullptr;
    CancelHandle* cancel = nullptr;
    std::string to;
    napi_value leave_out = nullptr;
    std::vector<std::string> names;
    Keep keep;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[0], "file", file));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[1], "to", to));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[2], "options"));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "leaveOut", leave_out));
    TMOE_RETURN_IF_ERROR(read_texts(env, leave_out, "options.leaveOut", names));
    TMOE_RETURN_IF_ERROR(read_progress(env, call.args[2], keep));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    if (!file->file) return Status(StatusCode::VALIDATION_ERROR, "file: the file was closed").with("argument", "file");
    auto task = std::make_shared<WriteBaseTask>(file->file, std::move(to), std::unordered_set<std::string>(names.begin(), names.end()),
                                                keep.progress != nullptr, cancel->flag);
    return start(call.environment, std::move(task), keep, result);
}

using MakeBlobs = std::function<Status(std::unique_ptr<BlobMaker>&)>;

class WriteExpertsTask : public Task {
  public:
    WriteExpertsTask(MakeBlobs make, std::string to, bool progress, CancelFlag cancel)
        : make_(std::move(make)), to_(std::move(to)), progress_(progress), cancel_(std::move(cancel)) {}
    Status run(const Ticket& ticket) override {
        std::unique_ptr<BlobMaker> maker;
        TMOE_RETURN_IF_ERROR(make_(maker));
        ThreadPool pool;
        TMOE_RETURN_IF_ERROR(pool.start(std::max(1u, std::thread::hardware_concurrency())));
        return write_experts(*maker, to_, pool, bytes_sender(ticket, progress_), cancel_.get(), written_);
    }
    void release() override { make_ = nullptr; }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        if (napi_create_object(environment.env, &value) != napi_ok) return exception_pending();
        define_file(environment.env, value, written_.file);
        return define_blobs(environment.env, value, written_.blobs);
    }
    void cancel() override { cancel_->store(true); }

  private:
    MakeBlobs make_;
    std::string to_;
    bool progress_;
    CancelFlag cancel_;
    WrittenExperts written_;
};

Status pack_experts_file(Call& call, napi_value& result) {
    napi_env env = call.env;
    GgufHandle* file = nullptr;
    CancelHandle* cancel = nullptr;
    std::string to, gate, up, down;
    std::vector<uint32_t> experts;
    Keep keep;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[0], "file", file));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[1], "to", to));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[2], "options"));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[2], "options", "gate", gate));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[2], "options", "up", up));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[2], "options", "down", down));
    TMOE_RETURN_IF_ERROR(read_u32(env, call.args[2], "experts", experts));
    TMOE_RETURN_IF_ERROR(read_progress(env, call.args[2], keep));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    if (!file->file) return Status(StatusCode::VALIDATION_ERROR, "file: the file was closed").with("argument", "file");
    auto make = [gguf = file->file, gate, up, down, experts](std::unique_ptr<BlobMaker>& out) {
        return pack_experts(gguf, gate, up, down, experts, out);
    };
    auto task = std::make_shared<WriteExpertsTask>(std::move(make), std::move(to), keep.progress != nullptr, cancel->flag);
    return start(call.environment, std::move(task), keep, result);
}

// {fileIndex, offset, crc32c}, one of each per blob.
Status read_blobs(napi_env env, napi_value options, size_t files, std::vector<StoredBlob>& out) {
    std::vector<uint32_t> file_index, crcs;
    std::vector<uint64_t> offsets;
    TMOE_RETURN_IF_ERROR(read_u32(env, options, "fileIndex", file_index));
    TMOE_RETURN_IF_ERROR(read_offsets(env, options, "offset", offsets));
    TMOE_RETURN_IF_ERROR(read_u32(env, options, "crc32c", crcs));
    bool sound = file_index.size() == offsets.size() && offsets.size() == crcs.size();
    for (const uint32_t file : file_index) sound = sound && file < files;
    if (!sound) return Status(StatusCode::VALIDATION_ERROR, "options: fileIndex, offset and crc32c do not belong together").with("argument", "options");
    for (size_t i = 0; i < offsets.size(); i++) out.push_back({file_index[i], offsets[i], crcs[i]});
    return {};
}

Status copy_experts_file(Call& call, napi_value& result) {
    napi_env env = call.env;
    CancelHandle* cancel = nullptr;
    std::vector<std::string> files;
    std::string to;
    std::vector<StoredBlob> blobs;
    int64_t blob_bytes = 0;
    Keep keep;
    TMOE_RETURN_IF_ERROR(read_texts(env, call.args[0], "files", files));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[1], "to", to));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[2], "options"));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[2], "options", "blobBytes", 1, kMostBytes, blob_bytes));
    TMOE_RETURN_IF_ERROR(read_blobs(env, call.args[2], files.size(), blobs));
    TMOE_RETURN_IF_ERROR(read_progress(env, call.args[2], keep));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    auto make = [files, blob_bytes, blobs](std::unique_ptr<BlobMaker>& out) {
        return copy_experts(files, static_cast<size_t>(blob_bytes), blobs, out);
    };
    auto task = std::make_shared<WriteExpertsTask>(std::move(make), std::move(to), keep.progress != nullptr, cancel->flag);
    return start(call.environment, std::move(task), keep, result);
}

Status merge_experts_file(Call& call, napi_value& result) {
    napi_env env = call.env;
    CancelHandle* cancel = nullptr;
    std::vector<std::string> files;
    std::string to;
    std::vector<StoredBlob> blobs;
    ExpertLayout layout;
    napi_value weights = nullptr;
    ArrayView view;
    TMOE_RETURN_IF_ERROR(read_texts(env, call.args[0], "files", files));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[1], "to", to));
    TMOE_RETURN_IF_ERROR(read_layout(env, call.args[2], layout));
    TMOE_RETURN_IF_ERROR(read_blobs(env, call.args[2], files.size(), blobs));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "weights", weights));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, weights, "options.weights", napi_float64_array, blobs.size(), view));
    std::vector<double> shares(view.as<double>(), view.as<double>() + blobs.size());
    auto make = [files, layout, blobs, shares](std::unique_ptr<BlobMaker>& out) { return merge_experts(files, layout, blobs, shares, out); };
    auto task = std::make_shared<WriteExpertsTask>(std::move(make), std::move(to), false, cancel->flag);
    return start(call.environment, std::move(task), {}, result);
}

Status init_expert_file(Call& call, napi_value& result) {
    napi_env env = call.env;
    CancelHandle* cancel = nullptr;
    std::string to;
    ExpertLayout layout;
    int64_t seed = 0;
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "to", to));
    TMOE_RETURN_IF_ERROR(read_layout(env, call.args[1], layout));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[1], "options", "seed", 0, INT64_C(9007199254740991), seed));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[2], "cancel", cancel));
    auto make = [layout, seed](std::unique_ptr<BlobMaker>& out) { return init_expert(layout, static_cast<uint64_t>(seed), out); };
    auto task = std::make_shared<WriteExpertsTask>(std::move(make), std::move(to), false, cancel->flag);
    return start(call.environment, std::move(task), {}, result);
}

class MeasureTask : public Task {
  public:
    MeasureTask(std::string path, std::vector<BlobRange> ranges, bool progress, CancelFlag cancel)
        : path_(std::move(path)), ranges_(std::move(ranges)), progress_(progress), cancel_(std::move(cancel)) {}
    Status run(const Ticket& ticket) override {
        return measure_shard(path_, ranges_, bytes_sender(ticket, progress_), cancel_.get(), found_);
    }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        if (napi_create_object(environment.env, &value) != napi_ok) return exception_pending();
        define_file(environment.env, value, found_.file);
        return define_blobs(environment.env, value, found_.blobs);
    }
    void cancel() override { cancel_->store(true); }

  private:
    std::string path_;
    std::vector<BlobRange> ranges_;
    bool progress_;
    CancelFlag cancel_;
    WrittenExperts found_;
};

Status measure_file(Call& call, napi_value& result) {
    napi_env env = call.env;
    CancelHandle* cancel = nullptr;
    std::string path;
    std::vector<uint64_t> offsets, sizes;
    Keep keep;
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "path", path));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[1], "options"));
    TMOE_RETURN_IF_ERROR(read_offsets(env, call.args[1], "offset", offsets));
    TMOE_RETURN_IF_ERROR(read_offsets(env, call.args[1], "bytes", sizes));
    TMOE_RETURN_IF_ERROR(read_progress(env, call.args[1], keep));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[2], "cancel", cancel));
    if (offsets.size() != sizes.size()) {
        return Status(StatusCode::VALIDATION_ERROR, "options: offset and bytes do not belong together").with("argument", "options");
    }
    std::vector<BlobRange> ranges;
    for (size_t i = 0; i < offsets.size(); i++) ranges.push_back({offsets[i], sizes[i]});
    auto task = std::make_shared<MeasureTask>(std::move(path), std::move(ranges), keep.progress != nullptr, cancel->flag);
    return start(call.environment, std::move(task), keep, result);
}

}  // namespace

Status read_layout(napi_env env, napi_value options, ExpertLayout& out) {
    DType gate, up, down;
    int64_t width = 0, hidden = 0;
    TMOE_RETURN_IF_ERROR(require_object(env, options, "options"));
    TMOE_RETURN_IF_ERROR(read_dtype(env, options, "options", "gate", gate));
    TMOE_RETURN_IF_ERROR(read_dtype(env, options, "options", "up", up));
    TMOE_RETURN_IF_ERROR(read_dtype(env, options, "options", "down", down));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, "options", "width", 1, kMostWeights, width));
    TMOE_RETURN_IF_ERROR(read_integer(env, options, "options", "hidden", 1, kMostWeights, hidden));
    if (width % dtype_info(gate).block != 0 || width % dtype_info(up).block != 0 || hidden % dtype_info(down).block != 0) {
        return Status(StatusCode::VALIDATION_ERROR, "options: rows are not a multiple of their type's block").with("argument", "options");
    }
    out = expert_layout(gate, up, down, static_cast<size_t>(width), static_cast<size_t>(hidden));
    return {};
}

napi_value layout_object(napi_env env, const ExpertLayout& layout) {
    napi_value out = nullptr;
    if (napi_create_object(env, &out) != napi_ok) return nullptr;
    define(env, out, "id", js_text(env, kExpertLayoutId));
    define(env, out, "gate", part_object(env, layout.gate));
    define(env, out, "up", part_object(env, layout.up));
    define(env, out, "down", part_object(env, layout.down));
    define(env, out, "bytes", js_number(env, static_cast<double>(layout.bytes)));
    return out;
}

napi_status bind_checkpoint(Environment& environment, napi_value exports) {
    const struct {
        const char* name;
        napi_callback function;
    } functions[] = {
        {"expertLayout", throwing<layout_of_expert>}, {"writeBase", promising<write_base_file>},     {"packExperts", promising<pack_experts_file>},
        {"copyExperts", promising<copy_experts_file>}, {"measureShard", promising<measure_file>},
        {"mergeExperts", promising<merge_experts_file>}, {"initExpert", promising<init_expert_file>},
    };
    napi_status status = napi_ok;
    for (const auto& entry : functions)
        if (status == napi_ok) status = export_function(environment.env, exports, entry.name, entry.function);
    return status;
}

}  // namespace tmoe
