// Token ids of llama.cpp for texts of any bytes: its own functions on a file's vocabulary. bench/tokenizers.mjs builds and feeds it.
//   peer_tokens MODEL FOLDER_OF_BACKENDS     stdin: {u32 flags, u32 bytes, bytes}…, stdout: {i32 count, i32 ids}…, count -1: it threw
// Flags: 1 parses special tokens, 2 adds those of start and end.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "llama.h"

static bool read_exactly(void* to, size_t bytes) { return fread(to, 1, bytes, stdin) == bytes; }

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_backend_load_all_from_path(argv[2]);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model* model = llama_model_load_from_file(argv[1], params);
    if (!model) return 3;
    const llama_vocab* vocab = llama_model_get_vocab(model);
    uint32_t header[2];
    std::string text;
    std::vector<llama_token> ids;
    while (read_exactly(header, sizeof header)) {
        text.resize(header[1]);
        if (header[1] > 0 && !read_exactly(&text[0], text.size())) return 4;
        // A token is a byte at the least, and a space may come before.
        ids.resize(4 * text.size() + 8);
        int32_t count = -1;
        try {
            count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), ids.data(), static_cast<int32_t>(ids.size()), (header[0] & 2) != 0,
                                   (header[0] & 1) != 0);
        } catch (const std::exception&) {
            count = -1;
        }
        fwrite(&count, sizeof count, 1, stdout);
        if (count > 0) fwrite(ids.data(), sizeof ids[0], static_cast<size_t>(count), stdout);
    }
    llama_model_free(model);
    return 0;
}
