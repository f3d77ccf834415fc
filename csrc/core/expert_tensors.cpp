#include "core/expert_tensors.h"

#include "core/store/direct_file.h"
#include "core/tensor_loader.h"

namespace tmoe {

Status open_experts(const Plan& plan, std::shared_ptr<GgufFile> file, const ExpertBlobs& blobs, std::vector<Weight>& weights, std::vector<ExpertLayout>& layouts,
                    std::shared_ptr<ExpertSource>& out) {
    std::vector<const PlanOp*> ops;
    size_t routes = 0;
    for (const PlanOp& op : plan.ops) {
        routes += op.kind == OpKind::Route;
        if (op.kind == OpKind::Experts) ops.push_back(&op);
    }
    const bool has_blobs = !blobs.places.empty();
    if (routes == 0) return Status(StatusCode::VALIDATION_ERROR, "a model without experts needs no budget for them");
    if (ops.size() != routes) return Status(StatusCode::VALIDATION_ERROR, "a layer routes but has no experts");
    if (has_blobs && (blobs.types.size() != routes || blobs.places.size() != routes)) {
        return Status(StatusCode::VALIDATION_ERROR, format("the checkpoint has blobs for %zu layers, the model has %zu with experts", blobs.places.size(), routes));
    }
    std::vector<GgufExperts> tensors;
    for (size_t layer = 0; layer < routes; layer++) {
        const uint32_t parts[] = {ops[layer]->gate, ops[layer]->up, ops[layer]->down};
        for (size_t part = 0; part < 3; part++) {
            Weight& w = weights[parts[part]];
            const PlanTensor& tensor = plan.tensors[parts[part]];
            if (!has_blobs) {
                TMOE_RETURN_IF_ERROR(describe_tensor(*file, tensor, w));
                continue;
            }
            w.role = tensor.role;
            w.type = part == 0 ? blobs.types[layer].gate : part == 1 ? blobs.types[layer].up : blobs.types[layer].down;
            w.columns = tensor.shape[0];
            w.rows = tensor.shape[1];
            w.experts = tensor.shape[2];
            if (w.columns % dtype_info(w.type).block != 0) return Status(StatusCode::VALIDATION_ERROR, "the rows of '" + tensor.name + "' are not whole blocks of its type");
        }
        const Weight &gate = weights[parts[0]], &up = weights[parts[1]], &down = weights[parts[2]];
        layouts.push_back(expert_layout(gate.type, up.type, down.type, gate.columns, gate.rows));
        if (!has_blobs) tensors.push_back({file->find(plan.tensors[parts[0]].file_name()), file->find(plan.tensors[parts[1]].file_name()), file->find(plan.tensors[parts[2]].file_name())});
    }
    if (has_blobs) return open_blob_source(blobs.files, blobs.places, layouts, out);
    return open_gguf_source(std::move(file), std::move(tensors), layouts, out);
}

Status adopt_experts(ExpertStore& store, const RoutingShape& shape, const std::vector<std::string>& files, const std::vector<AdoptedExpert>& experts) {
    std::vector<std::shared_ptr<DirectFile>> opened(files.size());
    for (size_t i = 0; i < files.size(); i++) TMOE_RETURN_IF_ERROR(DirectFile::open(files[i], opened[i]));
    for (const auto& [layer, expert, place] : experts) {
        if (layer >= shape.layers || expert >= shape.experts || place.file >= opened.size() || place.offset % kBlobAlignment != 0) {
            return Status(StatusCode::VALIDATION_ERROR, format("expert %u of layer %u cannot be in file %u at byte %llu", expert, layer, place.file, static_cast<unsigned long long>(place.offset)));
        }
        const DirectFile& file = *opened[place.file];
        if (place.offset <= file.bytes() && store.layout(layer).bytes <= file.bytes() - place.offset) continue;
        return Status(StatusCode::MODEL_CORRUPTED, file.path() + format(": the file is too short for expert %u of layer %u", expert, layer))
            .with("file", file.path())
            .with("layer", layer)
            .with("expert", expert)
            .with("offset", static_cast<double>(place.offset));
    }
    for (const auto& [layer, expert, place] : experts) store.adopt(layer, expert, opened[place.file], place.offset);
    return {};
}

}  // namespace tmoe
