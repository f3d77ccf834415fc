// llama.cpp from its process's start to the first token of a prompt: bench/matrix.mjs waits for the line, which has the process's peak memory.
//   peer_first MODEL PROMPT_TOKENS THREADS
// Default parameters, as its own programs have them: the file mapped, weights repacked where it does that.
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

size_t peak_bytes() {
    FILE* file = fopen("/proc/self/status", "r");
    char line[256];
    size_t kib = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "VmHWM:", 6) == 0) kib = strtoul(line + 6, nullptr, 10);
    }
    if (file) fclose(file);
    return kib * 1024;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return fprintf(stderr, "peer_first MODEL PROMPT_TOKENS THREADS\n"), 2;
    const int count = atoi(argv[2]);
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return fprintf(stderr, "peer_first: the model did not load\n"), 1;
    const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_context_params options = llama_context_default_params();
    options.n_ctx = static_cast<uint32_t>(count + 64);
    options.n_threads = options.n_threads_batch = atoi(argv[3]);
    llama_context* context = llama_init_from_model(model, options);
    if (!context) return fprintf(stderr, "peer_first: no context\n"), 1;
    std::vector<llama_token> tokens(static_cast<size_t>(count));
    for (size_t i = 0; i < tokens.size(); i++) tokens[i] = static_cast<llama_token>(i * 7919 % static_cast<size_t>(vocab));
    if (llama_decode(context, llama_batch_get_one(tokens.data(), count)) != 0) return fprintf(stderr, "peer_first: decode failed\n"), 1;
    const float* logits = llama_get_logits_ith(context, -1);
    int best = 0;
    for (int i = 1; i < vocab; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    printf("{\"token\": %d, \"peakBytes\": %zu}\n", best, peak_bytes());
    fflush(stdout);
    _Exit(0);   // what comes after the token is not measured
}
