// embed: rows of a table in the file's layout, looked up by id and decoded to float.
#pragma once
#include "cpu/expert_matmul.h"

namespace tmoe {

struct EmbedArgs {
    RawMatrix table;
    const int32_t* ids;
    size_t count;
    float* out;              ///< [count][columns]
};
/** VALIDATION_ERROR {token: the id} for an id outside the table; CANCELLED. */
Status embed(const Context& context, const EmbedArgs& args);
Status embed_ref(const EmbedArgs& args);
/** The check of both. */
Status check_embed(const EmbedArgs& args);

}  // namespace tmoe
