// Whole folders in and out: the same bytes come back, whatever is wrong is one error, and nothing is left behind.
#include "trainer/interop/transfer.h"

#include <cerrno>
#include <cmath>

#include "tests/interop/interop_fixture.h"
#include "trainer/interop/shared_folder.h"

namespace cadre::interop {
namespace {

using nlohmann::json;
using testing::error_of;
using testing::export_to;
using testing::golden_folder;
using testing::import_to;
using testing::TempFolder;
using testing::fs::path;

struct RawTensor {
  FloatFormat format{};
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
  bool operator==(const RawTensor&) const = default;
};
using Tensors = std::map<std::string, RawTensor>;

Tensors tensors_of(const path& folder) {
  Tensors all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.path().filename().string().starts_with("model") || entry.path().extension() != ".safetensors")
      continue;
    SafetensorsFile file(entry.path());
    for (const auto& [name, t] : file.tensors()) {
      RawTensor raw{t.format, t.shape, std::vector<std::byte>(size_t(t.numel() * size_of(t.format)))};
      file.read_bytes(t, 0, raw.bytes);
      all[name] = std::move(raw);
    }
  }
  return all;
}
void write_model(const path& folder, const json& config, const Tensors& tensors) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / kConfigFile) << config;
  std::vector<SafetensorsWriter::Tensor> list;
  for (const auto& [name, t] : tensors) list.push_back({name, t.format, t.shape});
  SafetensorsWriter writer(folder / kWeightsFile, list);
  for (const auto& [name, t] : tensors) writer.write(t.bytes);
  writer.close();
}
bool empty(const TempFolder& folder) {
  return std::filesystem::is_empty(folder.path());
}

TEST(Transfer, ExportOfAnImportHasTheSameBytes) {
  for (const std::string& name : testing::golden_names()) {
    TempFolder folder;
    const int ranks = 1 + int(name.size() % 3);
    const TransferReport in = import_to(golden_folder(name), folder / "ckpt", {}, ranks);
    const TransferReport out = export_to(
        {.from = folder / "ckpt", .to = folder / "hf", .format = {}, .shard_bytes = 6000, .like = {}}, ranks);
    const Tensors before = tensors_of(golden_folder(name)), after = tensors_of(folder / "hf");
    EXPECT_TRUE(before == after) << name;
    EXPECT_EQ(in.tensors, before.size());
    EXPECT_EQ(out.tensors, before.size());
    EXPECT_EQ(in.bytes, out.bytes);
    EXPECT_EQ(out.files > 1, out.bytes > 6000);
    EXPECT_EQ(HfWeights(folder / "hf").size(), before.size()) << "the index and the files agree";
    json config = read_config_json(golden_folder(name));
    const json exported = read_config_json(folder / "hf");
    for (const auto& [key, value] : config.items()) {
      if (key == "transformers_version" || key == "rope_parameters" || value.is_null()) continue;
      if (key == "num_local_experts" && exported.contains("num_experts")) continue;
      if (key == "decoder_sparse_step" || key == "mlp_only_layers")
        continue;  // the same layers, said otherwise
      EXPECT_EQ(exported.value(key, json()), value) << name << " " << key;
    }
  }
}

TEST(Transfer, FormatsMayDifferByTensor) {
  TempFolder folder;
  Tensors tensors = tensors_of(golden_folder("llama_linear"));
  RawTensor& norm = tensors.at("model.norm.weight");
  std::vector<float> values(norm.bytes.size() / 2);
  decode(norm.format, norm.bytes, values);
  values[3] += 1e-6f;  // now only float32 holds it
  norm.format = FloatFormat::kFloat32;
  norm.bytes.resize(values.size() * 4);
  encode(norm.format, values, norm.bytes);
  write_model(folder / "mixed", read_config_json(golden_folder("llama_linear")), tensors);
  import_to(folder / "mixed", folder / "ckpt");
  EXPECT_EQ(export_to({.from = folder / "ckpt", .to = folder / "hf", .format = {}, .like = {}}).format,
            FloatFormat::kBfloat16);
  EXPECT_TRUE(tensors_of(folder / "hf") == tensors);
  export_to({.from = folder / "ckpt", .to = folder / "half", .format = FloatFormat::kFloat16, .like = {}});
  EXPECT_EQ(tensors_of(folder / "half").at("model.norm.weight").format, FloatFormat::kFloat16);
  EXPECT_EQ(read_config_json(folder / "half")["dtype"], "float16");
}

TEST(Transfer, AnyNumberOfRanksWritesTheSameModel) {
  TempFolder folder;
  for (const int ranks : {1, 2, 5}) {
    const path to = folder / fmt::format("ckpt{}", ranks);
    import_to(golden_folder("qwen3_moe"), to, {}, ranks);
    export_to({.from = to, .to = folder / fmt::format("hf{}", ranks), .format = {}, .like = {}});
    EXPECT_EQ(trainer::check_files(trainer::read_index(to), to, 0, 1), "");
    EXPECT_EQ(trainer::read_index(to).files.size(), size_t(ranks));
    EXPECT_TRUE(tensors_of(folder / fmt::format("hf{}", ranks)) == tensors_of(golden_folder("qwen3_moe")));
  }
}

TEST(Transfer, FilesBesideTheWeightsGoAlongUnchanged) {
  TempFolder folder;
  std::filesystem::copy(golden_folder("llama_tied"), folder / "in");
  const path tokenizer = path(CADRE_GOLDEN_MODELS).parent_path() / "tokenizers" / "gpt2_style.json";
  std::filesystem::copy_file(tokenizer, folder / "in/tokenizer.json");
  std::ofstream(folder / "in/tokenizer_config.json") << R"({"eos_token": "<|end|>"})";
  std::ofstream(folder / "in/chat_template.jinja") << "{{ messages }}";
  const std::string error = error_of(ExitCode::kData, [&] { import_to(folder / "in", folder / "ckpt"); });
  EXPECT_NE(error.find("entries, the model 32"), std::string::npos) << error;
  EXPECT_NE(error.find("--no-tokenizer"), std::string::npos) << error;
  comm::run_threads(2, [&](comm::World& world) {
    import_model({.from = folder / "in", .to = folder / "ckpt", .upcycle = {}, .tokenizer = false}, world);
  });
  EXPECT_EQ(trainer::read_index(folder / "ckpt").tokenizer, "");
  export_to({.from = folder / "ckpt", .to = folder / "out", .format = {}, .like = {}});
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}) {
    EXPECT_EQ(base::read_file(folder / "out" / name, ExitCode::kData),
              base::read_file(folder / "in" / name, ExitCode::kData));
  }
}

// One may have hundreds of gigabytes to write while the others are done.
TEST(Transfer, RanksWaitForEachOtherAsLongAsFilesTake) {
  comm::run_threads(2, [](comm::World& world) {
    EXPECT_GE(patient_ranks(world, "test")->timeout(), std::chrono::hours(12));
  });
}

TEST(Transfer, ATiedHeadMayBeInTheFilesWhenItIsTheEmbedding) {
  TempFolder folder;
  Tensors tensors = tensors_of(golden_folder("llama_tied"));
  tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight");
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {
      FloatFormat::kFloat32, {2}, std::vector<std::byte>(8)};
  const json config = read_config_json(golden_folder("llama_tied"));
  write_model(folder / "same", config, tensors);
  import_to(folder / "same", folder / "ckpt");
  tensors["lm_head.weight"].bytes[5] ^= std::byte(1);
  write_model(folder / "other", config, tensors);
  const std::string error = error_of(ExitCode::kData, [&] { import_to(folder / "other", folder / "ckpt2"); });
  EXPECT_NE(error.find("tied"), std::string::npos) << error;
}

struct Damage {
  const char* name;
  void (*damage)(json& config, Tensors& tensors);
  const char* expected;
};
class Refused : public ::testing::TestWithParam<Damage> {};

TEST_P(Refused, WithOneErrorAndNothingWritten) {
  TempFolder in, out;
  json config = read_config_json(golden_folder("mixtral"));
  Tensors tensors = tensors_of(golden_folder("mixtral"));
  GetParam().damage(config, tensors);
  write_model(in / "hf", config, tensors);
  const std::string error = error_of(ExitCode::kData, [&] { import_to(in / "hf", out / "ckpt", {}, 2); });
  EXPECT_NE(error.find(GetParam().expected), std::string::npos) << error;
  EXPECT_TRUE(empty(out));
}

INSTANTIATE_TEST_SUITE_P(
    Folders, Refused,
    ::testing::Values(
        Damage{"missing",
               [](json&, Tensors& t) { t.erase("model.layers.1.block_sparse_moe.experts.2.w3.weight"); },
               "missing from the files: model.layers.1.block_sparse_moe.experts.2.w3.weight"},
        Damage{"unknown", [](json&, Tensors& t) { t["model.layers.0.extra"] = t.at("model.norm.weight"); },
               "not part of a model of type mixtral: model.layers.0.extra"},
        Damage{"untied",
               [](json& c, Tensors& t) { t.erase("lm_head.weight"), c["tie_word_embeddings"] = false; },
               "lm_head.weight"},
        Damage{"other_shape",
               [](json&, Tensors& t) {
                 auto& shape = t.at("model.layers.0.self_attn.q_proj.weight").shape;
                 shape = {shape[0] * 2, shape[1] / 2};
               },
               "has shape (32, 8), expected (16, 16)"},
        Damage{"wider", [](json& c, Tensors&) { c["hidden_size"] = 32; }, "has shape"},
        Damage{"more_layers", [](json& c, Tensors&) { c["num_hidden_layers"] = 3; }, "model.layers.2."},
        Damage{"fewer_experts", [](json& c, Tensors&) { c["num_local_experts"] = 3; }, "shape"},
        // 400 million tensors: refused by their number, before any list of them is made.
        Damage{"hostile_counts",
               [](json& c, Tensors&) { c["num_local_experts"] = 65536, c["num_hidden_layers"] = 2000; },
               "asks for 393"}),
    [](const auto& info) { return info.param.name; });

TEST(Transfer, FilesThatDisagreeAreRefused) {
  struct Lie {
    const char* what;
    void (*change)(const path& folder);
    const char* expected;
  };
  const auto edit_map = [](const path& folder, const auto& edit) {
    json index = json::parse(base::read_file(folder / kWeightsIndexFile, ExitCode::kData));
    edit(index["weight_map"]);
    std::ofstream(folder / kWeightsIndexFile) << index;
  };
  static const auto edit = edit_map;
  const std::vector<Lie> lies = {
      {"a file is gone",
       [](const path& f) { std::filesystem::remove(f / "model-00002-of-00004.safetensors"); },
       "model-00002-of-00004"},
      {"a file is cut",
       [](const path& f) { std::filesystem::resize_file(f / "model-00003-of-00004.safetensors", 4000); },
       "model-00003-of-00004"},
      {"no weights", [](const path& f) { std::filesystem::remove(f / kWeightsIndexFile); }, "found neither"},
      {"no config", [](const path& f) { std::filesystem::remove(f / kConfigFile); }, "config.json"},
      {"config is no JSON", [](const path& f) { std::ofstream(f / kConfigFile) << "hidden_size = 3"; },
       "no JSON"},
      {"a tensor is said to be elsewhere",
       [](const path& f) {
         edit(f, [](json& map) { map["model.norm.weight"] = "model-00001-of-00004.safetensors"; });
       },
       "model.norm.weight"},
      {"a tensor is not listed",
       [](const path& f) { edit(f, [](json& map) { map.erase("model.norm.weight"); }); },
       "model.norm.weight"},
      {"a listed tensor is not there",
       [](const path& f) { edit(f, [](json& map) { map["x"] = "model-00001-of-00004.safetensors"; }); },
       "'x' is not in"},
      {"a way out of the folder",
       [](const path& f) { edit(f, [](json& map) { map["model.norm.weight"] = "../model.safetensors"; }); },
       "not a name"},
      {"a number for a file", [](const path& f) { edit(f, [](json& map) { map["model.norm.weight"] = 7; }); },
       "not a name"},
  };
  for (const Lie& lie : lies) {
    TempFolder in, out;
    std::filesystem::copy(golden_folder("mixtral"), in / "hf");
    lie.change(in / "hf");
    const std::string error = error_of(ExitCode::kData, [&] { import_to(in / "hf", out / "ckpt"); });
    EXPECT_NE(error.find(lie.expected), std::string::npos) << lie.what << ": " << error;
    EXPECT_TRUE(empty(out)) << lie.what;
  }
}

TEST(Transfer, AFullDiskLeavesNothing) {
  TempFolder folder, out;
  for (const char* file : {"rank-00001.bin", "index.json"}) {
    base::testing::fail_writes(file, 100, ENOSPC);
    const std::string error =
        error_of(ExitCode::kCheckpoint, [&] { import_to(golden_folder("olmoe"), out / "ckpt", {}, 2); });
    EXPECT_NE(error.find("No space left"), std::string::npos) << error;
    EXPECT_TRUE(empty(out));
  }
  base::testing::fail_writes("", 0, 0);
  import_to(golden_folder("olmoe"), folder / "ckpt");
  base::testing::fail_writes("model.safetensors", 100, ENOSPC);
  error_of(ExitCode::kCheckpoint,
           [&] { export_to({.from = folder / "ckpt", .to = out / "hf", .format = {}, .like = {}}); });
  base::testing::fail_writes("", 0, 0);
  EXPECT_TRUE(empty(out));
}

TEST(Transfer, WhatIsThereIsNotOverwritten) {
  TempFolder folder;
  std::ofstream(folder / "ckpt") << "mine";
  EXPECT_NE(
      error_of(ExitCode::kUsage, [&] { import_to(golden_folder("olmoe"), folder / "ckpt"); }).find("exists"),
      std::string::npos);
  EXPECT_EQ(base::read_file(folder / "ckpt", ExitCode::kData), "mine");
}

TEST(Transfer, ValuesThatAFormatCannotHoldAreNamed) {
  TempFolder folder;
  Tensors tensors = tensors_of(golden_folder("llama_tied"));
  const float large = 1e6f;
  std::memcpy(tensors.at("model.norm.weight").bytes.data(), &large, 4);
  write_model(folder / "in", read_config_json(golden_folder("llama_tied")), tensors);
  import_to(folder / "in", folder / "ckpt");
  const std::string error = error_of(ExitCode::kUsage, [&] {
    export_to({.from = folder / "ckpt", .to = folder / "out", .format = FloatFormat::kFloat16, .like = {}});
  });
  EXPECT_NE(error.find("'model.norm.weight' holds 1000000"), std::string::npos) << error;
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

// Logits (V) after each token of a fixed text.
std::vector<float> logits_of(const path& checkpoint) {
  std::vector<float> all;
  comm::run_threads(1, [&](comm::World& world) {
    testing::LoadedCheckpoint model(checkpoint, world, 24, 1);
    auto cache = model->decoder.make_cache(24);
    for (int32_t t = 0; t < 24; ++t) {
      const auto logits = model->decoder.extend(*cache, {(t * 7 + 3) % 32});
      all.insert(all.end(), logits.begin(), logits.end());
    }
  });
  return all;
}

TEST(Upcycle, TheFirstForwardIsTheDenseOne) {
  for (const auto& [name, family] : {std::pair<std::string, std::string>{"llama_tied", "mixtral"},
                                     {"llama_yarn", "mixtral"},
                                     {"qwen3", "qwen3_moe"}}) {
    TempFolder folder;
    import_to(golden_folder(name), folder / "dense");
    import_to(golden_folder(name), folder / "moe", Upcycle{.experts = 6, .top_k = 3}, 2);
    const std::vector<float> dense = logits_of(folder / "dense"), moe = logits_of(folder / "moe");
    ASSERT_EQ(dense.size(), moe.size());
    for (size_t i = 0; i < dense.size(); ++i) ASSERT_NEAR(moe[i], dense[i], 1e-5) << name << " " << i;
    EXPECT_EQ(export_to({.from = folder / "moe", .to = folder / "hf", .format = {}, .like = {}}).model_type,
              family);
    import_to(folder / "hf", folder / "again");
    const std::vector<float> again = logits_of(folder / "again");
    for (size_t i = 0; i < dense.size(); ++i) ASSERT_NEAR(again[i], dense[i], 1e-5) << name << " " << i;
  }
  TempFolder folder;
  const std::string error = error_of(ExitCode::kUsage, [&] {
    import_to(golden_folder("mixtral"), folder / "moe", Upcycle{.experts = 6, .top_k = 3});
  });
  EXPECT_NE(error.find("has experts already"), std::string::npos) << error;
}

}  // namespace
}  // namespace cadre::interop
