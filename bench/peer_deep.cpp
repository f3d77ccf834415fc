// llama.cpp decoding at a depth, as llama-bench's -d measures it, with the prompt of that depth kept in a file: it takes llama.cpp minutes.
//   peer_deep MODEL DEPTH TOKENS THREADS FLASH(0|1) STATE_FILE     prints one JSON line: {"rate": tokens a second}
// STATE_FILE is made by the first run with the model, depth and form of attention, on every processor, and read by the others.
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace {

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int fail(const char* what) {
    fprintf(stderr, "peer_deep: %s\n", what);
    return 1;
}

/** The keys and values of `depth` tokens, from the file or computed and written there. */
bool fill(llama_context* context, std::vector<llama_token> tokens, const char* path) {
    size_t count = 0;
    if (FILE* file = fopen(path, "r")) {
        fclose(file);
        std::vector<llama_token> kept(tokens.size());
        return llama_state_load_file(context, path, kept.data(), kept.size(), &count) && count == tokens.size();
    }
    constexpr size_t kBatch = 512;
    for (size_t i = 0; i < tokens.size(); i += kBatch) {
        const size_t step = std::min(kBatch, tokens.size() - i);
        if (llama_decode(context, llama_batch_get_one(tokens.data() + i, static_cast<int32_t>(step))) != 0) return false;
    }
    llama_synchronize(context);
    const std::string part = std::string(path) + ".part";   // a run that is cut short leaves no half of it under its name
    return llama_state_save_file(context, part.c_str(), tokens.data(), tokens.size()) && rename(part.c_str(), path) == 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 7) return fail("MODEL DEPTH TOKENS THREADS FLASH STATE_FILE"), 2;
    const int depth = atoi(argv[2]), count = atoi(argv[3]), threads = atoi(argv[4]);
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return fail("the model did not load");
    llama_context_params options = llama_context_default_params();
    options.n_ctx = static_cast<uint32_t>(depth + count + 64);
    options.n_threads = threads;
    options.n_threads_batch = static_cast<int32_t>(std::thread::hardware_concurrency());
    options.flash_attn_type = atoi(argv[5]) ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context* context = llama_init_from_model(model, options);
    if (!context) return fail("no context");

    const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    srand(1);
    const auto random_token = [&] { return static_cast<llama_token>(rand() % vocab); };
    std::vector<llama_token> tokens(static_cast<size_t>(depth));
    for (llama_token& token : tokens) token = random_token();
    if (!fill(context, tokens, argv[6])) return fail("no keys and values of the depth");

    const auto decode = [&](int steps) {
        for (int i = 0; i < steps; i++) {
            llama_token token = random_token();
            if (llama_decode(context, llama_batch_get_one(&token, 1)) != 0) return false;
            llama_synchronize(context);
        }
        return true;
    };
    // Untimed first, so that weights that were mapped again are there.
    if (!decode(count) || !llama_memory_seq_rm(llama_get_memory(context), 0, depth, -1)) return fail("decode failed");
    const double start = seconds();
    if (!decode(count)) return fail("decode failed");
    printf("{\"rate\": %.4f}\n", count / (seconds() - start));
    return 0;
}
