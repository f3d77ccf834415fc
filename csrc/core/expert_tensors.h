// The experts of a plan as files have them: how each layer's are laid out, and where they are read from.
#pragma once
#include <memory>
#include <vector>

#include "core/model.h"
#include "core/store/expert_source.h"

namespace tmoe {

/**
 * Describes the expert tensors of every layer (into `weights`, one per tensor of the plan) from the file, or from a checkpoint's blobs where
 * there are any, lays a layer's experts out, and opens their source. The errors of describe_tensor, open_gguf_source and open_blob_source;
 * VALIDATION_ERROR where the plan has no experts, or the blobs another number of layers.
 */
Status open_experts(const Plan& plan, std::shared_ptr<GgufFile> file, const ExpertBlobs& blobs, std::vector<Weight>& weights, std::vector<ExpertLayout>& layouts,
                    std::shared_ptr<ExpertSource>& out);

/** Model::adopt_experts on a store. */
Status adopt_experts(ExpertStore& store, const RoutingShape& shape, const std::vector<std::string>& files, const std::vector<AdoptedExpert>& experts);

}  // namespace tmoe
