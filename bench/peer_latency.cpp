// llama.cpp, token by token: the time of each decoded token, which llama-bench does not give.
//   peer_latency MODEL TOKENS_FILE THREADS MMAP(0|1)     prints one JSON line: {"loadSeconds": …, "seconds": [per token]}
// TOKENS_FILE: ids separated by white space, fed one a step. Repacking is off, because under a memory cap it never finishes loading.
// Compiled by bench/memory-cap.mjs against the llama.cpp that --peer-source names.
#include <llama.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return fprintf(stderr, "peer_latency MODEL TOKENS_FILE THREADS MMAP\n"), 2;
    std::vector<llama_token> tokens;
    FILE* file = fopen(argv[2], "r");
    if (!file) return perror(argv[2]), 1;
    for (int id = 0; fscanf(file, "%d", &id) == 1;) tokens.push_back(id);
    fclose(file);

    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    const double start = seconds();
    llama_model_params model_options = llama_model_default_params();
    model_options.use_extra_bufts = false;
    model_options.load_mode = llama_load_mode_from_str(atoi(argv[4]) ? "mmap" : "none");
    llama_model* model = llama_model_load_from_file(argv[1], model_options);
    if (!model) return fprintf(stderr, "peer_latency: the model did not load\n"), 1;
    llama_context_params options = llama_context_default_params();
    options.n_ctx = static_cast<uint32_t>(tokens.size() + 8);
    options.n_batch = options.n_ubatch = 32;
    options.n_threads = options.n_threads_batch = atoi(argv[3]);
    llama_context* context = llama_init_from_model(model, options);
    if (!context) return fprintf(stderr, "peer_latency: no context\n"), 1;
    printf("{\"loadSeconds\": %.4f, \"seconds\": [", seconds() - start);
    for (size_t i = 0; i < tokens.size(); i++) {
        const double begin = seconds();
        if (llama_decode(context, llama_batch_get_one(&tokens[i], 1)) != 0) return fprintf(stderr, "peer_latency: decode failed\n"), 1;
        llama_synchronize(context);
        printf("%s%.6f", i ? ", " : "", seconds() - begin);
        fflush(stdout);
    }
    printf("]}\n");
    return 0;
}
