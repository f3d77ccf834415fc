// Versions in memory, and a model's change from one set of them to another.
#include "core/expert_versions.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/model.h"
#include "core/store/direct_file.h"

namespace tmoe {

Status open_version(uint32_t layer, uint32_t expert, const VersionPlace& place, const ExpertLayout& layout, std::shared_ptr<DirectFile>& out) {
    TMOE_RETURN_IF_ERROR(DirectFile::open(place.path, out));
    if (place.offset % kBlobAlignment == 0 && place.offset <= out->bytes() && layout.bytes <= out->bytes() - place.offset) return {};
    return Status(StatusCode::MODEL_CORRUPTED, place.path + format(": there is no blob of %zu bytes at byte %llu for expert %u of layer %u", layout.bytes,
                                                                   static_cast<unsigned long long>(place.offset), expert, layer))
        .with("file", place.path)
        .with("layer", layer)
        .with("expert", expert)
        .with("offset", static_cast<double>(place.offset));
}

Status read_version(uint32_t layer, uint32_t expert, const VersionPlace& place, const ExpertLayout& layout, uint8_t* blob) {
    std::shared_ptr<DirectFile> file;
    TMOE_RETURN_IF_ERROR(open_version(layer, expert, place, layout, file));
    std::vector<uint32_t> sums(blob_pieces(layout));
    for (size_t piece = 0; piece < sums.size(); piece++) TMOE_RETURN_IF_ERROR(read_blob_piece(*file, place.offset, layout, piece, blob, sums[piece]));
    return check_blob(layer, expert, layout, sums, place.crc32c, place.path, place.offset);
}

namespace {

Status invalid(const ExpertVersionList& list, const char* what) {
    return Status(StatusCode::VALIDATION_ERROR, format("versions of expert %u of layer %u: %s", list.expert, list.layer, what)).with("argument", "versions");
}

}  // namespace

int64_t ExpertVersions::find(size_t layer, uint32_t expert, uint64_t epoch) const {
    const Layer& held = layers_[layer];
    int64_t found = -1;
    for (size_t i = 0; i < held.size(); i++) {
        if (held[i]->expert != expert || held[i]->place.epoch > epoch) continue;
        if (found < 0 || held[static_cast<size_t>(found)]->place.epoch < held[i]->place.epoch) found = static_cast<int64_t>(i);
    }
    return found;
}

ExpertLayout Model::layout_of(size_t layer) const {
    if (store_) return store_->layout(static_cast<uint32_t>(layer));
    const PlanOp& op = *routed_[layer].experts;
    const Weight &gate = weights_[op.gate], &up = weights_[op.up], &down = weights_[op.down];
    return expert_layout(gate.type, up.type, down.type, gate.columns, gate.rows);
}

Status Model::read_version(uint32_t layer, HeldVersion& version) {
    const ExpertLayout layout = layout_of(layer);
    TMOE_RETURN_IF_ERROR(allocate_output(layout.bytes + kBlobAlignment, version.memory));
    version.blob = blob_begin(version.memory.data());
    return tmoe::read_version(layer, version.expert, version.place, layout, version.blob);
}

Status Model::check_versions(const std::vector<ExpertVersionList>& lists) const {
    for (const ExpertVersionList& list : lists) {
        if (list.layer >= routing_.layers || list.expert >= routing_.experts || !routed_[list.layer].experts) return invalid(list, "there is no such expert");
        if (list.versions.empty()) return invalid(list, "at least one is needed");
        for (size_t i = 1; i < list.versions.size(); i++) {
            if (list.versions[i].path.empty() || list.versions[i].epoch <= list.versions[i - 1].epoch) return invalid(list, "epochs ascend, and only the first has no file");
        }
        const auto is_placed = [&](const VersionPlace& place) { return place.same_bytes(first_versions_[list.layer * routing_.experts + list.expert]); };
        if (list.versions[0].path.empty() && !is_placed(list.versions[0])) return invalid(list, "what the model was loaded with is no longer there");
    }
    return {};
}

/** Puts a version where the model keeps the expert. Nothing can fail here: what is needed was read or opened before. */
void Model::set_first_version(uint32_t layer, const HeldVersion& version, std::shared_ptr<DirectFile> file) {
    VersionPlace& first = first_versions_[layer * routing_.experts + version.expert];
    first = version.place;
    if (store_) {
        store_->replace(layer, version.expert, std::move(file), version.place.offset, version.place.crc32c);
        return;
    }
    const ExpertLayout layout = layout_of(layer);
    const PlanOp& op = *routed_[layer].experts;
    const std::pair<uint32_t, const ExpertPart*> parts[] = {{op.gate, &layout.gate}, {op.up, &layout.up}, {op.down, &layout.down}};
    for (const auto& [tensor, part] : parts) {
        Weight& weight = weights_[tensor];
        memcpy(weight.data.data() + version.expert * weight.expert_bytes, version.blob + part->offset, part->bytes);
    }
}

Status Model::place_versions(const std::vector<ExpertVersionList>& lists) {
    if (device_) return Status(StatusCode::VALIDATION_ERROR, "this backend computes one version of each expert: change experts with the backend cpu or webgpu").with("argument", "backend");
    TMOE_RETURN_IF_ERROR(check_versions(lists));
    // What is to be read first, into memory of its own; nothing of the model changes before all of it is there.
    struct Change {
        uint32_t layer;
        std::unique_ptr<HeldVersion> version;
        const HeldVersion* here;            ///< the same bytes in memory, or null
        std::shared_ptr<DirectFile> file;   ///< of a first version in a store
        bool first;
    };
    std::vector<Change> changes;
    for (const ExpertVersionList& list : lists) {
        const ExpertVersions::Layer& held = versions_.layer(list.layer);
        for (size_t i = 0; i < list.versions.size(); i++) {
            const VersionPlace& place = list.versions[i];
            const auto is_it = [&](const auto& version) { return version->expert == list.expert && version->place.same_bytes(place); };
            const auto here = std::find_if(held.begin(), held.end(), is_it);
            if (i == 0 ? place.same_bytes(first_versions_[list.layer * routing_.experts + list.expert]) : here != held.end()) continue;
            Change change{list.layer, std::make_unique<HeldVersion>(), here == held.end() ? nullptr : here->get(), nullptr, i == 0};
            change.version->expert = list.expert;
            change.version->place = place;
            if (change.first && store_) TMOE_RETURN_IF_ERROR(open_version(list.layer, list.expert, place, layout_of(list.layer), change.file));
            else if (!change.here) TMOE_RETURN_IF_ERROR(read_version(list.layer, *change.version));
            changes.push_back(std::move(change));
        }
    }
    for (Change& change : changes) {
        if (change.first) set_first_version(change.layer, change.here ? *change.here : *change.version, std::move(change.file));
        else versions_.layer(change.layer).push_back(std::move(change.version));
    }
    for (const ExpertVersionList& list : lists) {
        ExpertVersions::Layer& held = versions_.layer(list.layer);
        const auto is_left_out = [&](const std::unique_ptr<HeldVersion>& version) {
            if (version->expert != list.expert) return false;
            for (size_t i = 1; i < list.versions.size(); i++) {
                if (!version->place.same_bytes(list.versions[i])) continue;
                version->place.epoch = list.versions[i].epoch;
                return false;
            }
            return true;
        };
        held.erase(std::remove_if(held.begin(), held.end(), is_left_out), held.end());
    }
    // An epoch's versions may be others now.
    if (prefix_) prefix_->clear();
    return {};
}

}  // namespace tmoe
