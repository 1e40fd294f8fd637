// config.json in both directions, and what is refused because the model would compute something else.
#include "trainer/interop/hf_config.h"

#include "tests/interop/interop_fixture.h"
#include "trainer/interop/model_table.h"
#include "trainer/model/rope_scaling.h"

namespace cadre::interop {
namespace {

using nlohmann::json;
using testing::error_of;

json config_of(const std::string& name) {
  return read_config_json(testing::golden_folder(name));
}
HfModel read(const json& config) {
  return read_hf_config(config, "config.json");
}
std::string yaml_of(const HfModel& hf) {
  return trainer::resolved_yaml(model_run(hf.model, hf.moe, 16, "test"));
}

TEST(HfConfig, WritesWhatItReads) {
  for (const std::string& name : testing::golden_names()) {
    const HfModel hf = read(config_of(name));
    for (const json& base : {json(), config_of(name)}) {
      const json written = write_hf_config(base, hf, FloatFormat::kBfloat16);
      EXPECT_EQ(yaml_of(read(written)), yaml_of(hf)) << name;
      EXPECT_EQ(read(written).max_positions, hf.max_positions);
      EXPECT_EQ(&architecture_for(hf.model, hf.moe), hf.architecture) << name;
    }
  }
}

TEST(HfConfig, BothSpellingsOfRotaryOptionsMeanTheSame) {
  json older = config_of("llama_llama3");
  json rope = older["rope_parameters"];
  older.erase("rope_parameters");
  older["rope_theta"] = rope["rope_theta"];
  rope.erase("rope_theta");
  rope["type"] = rope["rope_type"];
  rope.erase("rope_type");
  older["rope_scaling"] = rope;
  EXPECT_EQ(yaml_of(read(older)), yaml_of(read(config_of("llama_llama3"))));
}

TEST(HfConfig, MissingOptionsAreThoseOfTheFamily) {
  json config = config_of("mixtral");
  for (const char* key :
       {"rope_parameters", "rms_norm_eps", "head_dim", "num_key_value_heads", "tie_word_embeddings"}) {
    config.erase(key);
  }
  const HfModel hf = read(config);
  EXPECT_EQ(hf.model.rope.theta, 1e6);
  EXPECT_EQ(hf.model.norm_eps, 1e-5);
  EXPECT_EQ(hf.model.head_size(), 4);
  EXPECT_EQ(hf.model.kv_heads, 4);
  EXPECT_FALSE(hf.model.tie_head);
}

TEST(HfConfig, ExpertLayersBecomeAStartAndAStride) {
  json config = config_of("qwen3_moe");
  struct Case {
    int layers, step;
    std::vector<int> dense;
    int first, every;
  };
  for (const Case& c : {Case{4, 1, {}, 0, 1}, Case{4, 1, {0, 1}, 2, 1}, Case{6, 2, {}, 1, 2},
                        Case{6, 3, {}, 2, 3}, Case{6, 2, {1}, 3, 2}, Case{3, 1, {0, 1}, 2, 3}}) {
    config["num_hidden_layers"] = c.layers;
    config["decoder_sparse_step"] = c.step;
    config["mlp_only_layers"] = c.dense;
    const HfModel hf = read(config);
    EXPECT_EQ(hf.model.first_dense_layers, c.first);
    EXPECT_EQ(hf.model.moe_every, c.every);
  }
  config["num_hidden_layers"] = 5;
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = {2};
  EXPECT_NE(error_of(ExitCode::kData, [&] { read(config); }).find("layer 2 has no experts"),
            std::string::npos);
  config["mlp_only_layers"] = {0, 1, 2, 3, 4};
  EXPECT_NE(error_of(ExitCode::kData, [&] { read(config); }).find("no layer"), std::string::npos);
}

TEST(HfConfig, OptionsThatWouldChangeNumbersAreRefused) {
  const std::vector<std::tuple<std::string, std::string, json>> lies = {
      {"llama_tied", "model_type", "gpt2"},
      {"llama_tied", "attention_bias", true},
      {"llama_tied", "mlp_bias", true},
      {"llama_tied", "hidden_act", "gelu"},
      {"llama_tied", "quantization_config", {{"bits", 4}}},
      {"llama_tied", "partial_rotary_factor", 0.5},
      {"llama_tied", "vocab_size", -1},
      {"llama_tied", "hidden_size", 1e300},
      {"llama_tied", "hidden_size", "16"},
      {"llama_tied", "num_hidden_layers", 18446744073709551615u},
      {"llama_tied", "layer_types", {"sliding_attention"}},
      {"llama_tied", "rms_norm_eps", "small"},
      {"mixtral", "sliding_window", 4096},
      {"mixtral", "num_local_experts", 0},
      {"mixtral", "num_experts_per_tok", 5},
      {"olmoe", "clip_qkv", 8.0},
      {"olmoe", "head_dim", 6},
      {"qwen3_moe", "use_sliding_window", true},
      {"qwen3_moe", "mlp_only_layers", {7}},
      {"llama_yarn", "rope_parameters", {{"rope_type", "longrope"}}},
      {"llama_yarn", "rope_parameters", {{"rope_type", "yarn"}, {"factor", 0.5}}},
      {"llama_yarn", "rope_parameters", {{"rope_type", "yarn"}, {"factor", 2}, {"twist", 1}}},
      {"llama_yarn",
       "rope_parameters",
       {{"rope_type", "yarn"}, {"factor", 2}, {"partial_rotary_factor", 0.5}}},
  };
  for (const auto& [name, key, value] : lies) {
    json config = config_of(name);
    config[key] = value;
    const std::string error = error_of(ExitCode::kData, [&] { read(config); });
    EXPECT_TRUE(error.find(key) != std::string::npos || key == "rope_parameters" || key == "head_dim")
        << error;
    EXPECT_NE(error, "no error") << name << " " << key;
  }
  json config = config_of("llama_tied");
  config.erase("hidden_size");
  EXPECT_NE(error_of(ExitCode::kData, [&] { read(config); }).find("hidden_size"), std::string::npos);
}

TEST(HfConfig, YarnTakesItsFactorFromWhicheverOptionsAreThere) {
  json config = config_of("llama_yarn");
  json& rope = config["rope_parameters"];
  rope["mscale"] = 0.7;
  rope["mscale_all_dim"] = 0.5;
  EXPECT_NEAR(read(config).model.rope.scaling.attention_factor,
              (0.07 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1), 1e-12);
  rope.erase("factor");
  EXPECT_EQ(read(config).model.rope.scaling.factor, 4) << "64 positions from 16";
}

TEST(Architecture, ModelsOfNoFamilySayWhatStandsInTheWay) {
  HfModel hf = read(config_of("mixtral"));
  hf.model.first_dense_layers = 1;
  EXPECT_NE(
      error_of(ExitCode::kUsage, [&] { architecture_for(hf.model, hf.moe); }).find("1 of 2 layers dense"),
      std::string::npos);
  hf = read(config_of("mixtral"));
  hf.moe->num_shared = 1;
  EXPECT_NE(error_of(ExitCode::kUsage, [&] { architecture_for(hf.model, hf.moe); }).find("num_shared"),
            std::string::npos);
  hf = read(config_of("mixtral"));
  hf.moe->router = YAML::Load("{name: sigmoid_bias}");
  EXPECT_NE(error_of(ExitCode::kUsage, [&] { architecture_for(hf.model, hf.moe); }).find("sigmoid_bias"),
            std::string::npos);
}

}  // namespace
}  // namespace cadre::interop
