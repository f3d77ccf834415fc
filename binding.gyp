{
  "variables": { "sanitize%": "" },
  "targets": [
    {
      "target_name": "tiered_moe",
      "sources": ["<!@(node scripts/sources.cjs)"],
      "actions": [{
        "action_name": "embed_shaders",
        "inputs": ["scripts/embed-shaders.cjs", "<!@(node scripts/embed-shaders.cjs --list)"],
        "outputs": ["<(INTERMEDIATE_DIR)/embedded_shaders.cpp"],
        "action": ["node", "scripts/embed-shaders.cjs", "<@(_outputs)"],
        "process_outputs_as_sources": 1
      }],
      "include_dirs": ["csrc", "<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED"],
      "cflags!": ["-O2"],
      "cflags": ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-fno-exceptions"],
      "cflags_cc": ["-std=c++17"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-rtti"],
      "xcode_settings": {
        "CLANG_CXX_LANGUAGE_STANDARD": "c++17",
        "GCC_OPTIMIZATION_LEVEL": "3",
        "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-fno-exceptions"]
      },
      "conditions": [
        ["sanitize!=''", {
          "cflags": ["-fsanitize=<(sanitize)", "-fno-omit-frame-pointer", "-g1", "-Og", "--param", "asan-instrumentation-with-call-threshold=100"],
          "configurations": { "Release": { "cflags!": ["-O3"] } },
          "ldflags": ["-fsanitize=<(sanitize)"]
        }]
      ]
    }
  ]
}
