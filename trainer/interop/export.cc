#include <algorithm>

#include "data/tokenizer.h"
#include "parallel/base/log.h"
#include "trainer/interop/hf_config.h"
#include "trainer/interop/hf_folder.h"
#include "trainer/interop/model_table.h"
#include "trainer/interop/shared_folder.h"
#include "trainer/interop/transfer.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"

namespace cadre::interop {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

using Shard = std::vector<TensorLink>;  // tensors of one file

// What the checkpoint knows of the model's published form, when it was imported: see import_model.
struct Published {
  json config;  // null when there is none
  FloatFormat format = FloatFormat::kFloat32;
  std::map<std::string, FloatFormat> others;
  std::vector<std::string> files;
};
Published read_published(const trainer::CheckpointIndex& index, const fs::path& folder) {
  Published p;
  const auto found = index.state.find("published");
  if (found == index.state.end()) return p;
  const std::string where = (folder / trainer::kIndexFile).string();
  try {
    p.config = found->at("config");
    p.format = format_from_name(found->at("dtype").get<std::string>(), where);
    for (const auto& [name, format] : found->at("other_dtypes").items()) {
      p.others[name] = format_from_name(format.get<std::string>(), where);
    }
    for (const json& file : found->at("files")) {
      p.files.push_back(file.get<std::string>());
      require(index.files.contains(p.files.back()), ExitCode::kCheckpoint, "{}: '{}' is not among the files",
              where, p.files.back());
    }
  } catch (const json::exception& error) {
    fail(ExitCode::kCheckpoint, "{}: {}", where, error.what());
  }
  return p;
}

// Positions that the model is made for: what it was published with, else what it was trained on, stretched.
int64_t max_positions(const json& base, const trainer::RunConfig& run) {
  const trainer::RopeScaling& s = run.model.rope.scaling;
  if (s.name == "dynamic") return s.original_context;  // the rule's reference length has no other place
  if (base.is_object() && base.contains("max_position_embeddings") &&
      base["max_position_embeddings"].is_number_unsigned()) {
    return base["max_position_embeddings"].get<int64_t>();
  }
  return std::max(run.data.seq_len, int64_t(double(s.original_context) * s.factor));
}

FloatFormat format_of(const TensorLink& link, const ExportOptions& options, const Published& published) {
  if (options.format) return *options.format;
  const auto other = published.others.find(link.theirs);
  return other == published.others.end() ? published.format : other->second;
}

class Exporter {
 public:
  Exporter(const ExportOptions& options, fs::path checkpoint, comm::World& world)
      : options_(options),
        checkpoint_(std::move(checkpoint)),
        reader_(checkpoint_),
        published_(read_published(reader_.index(), checkpoint_)),
        run_(trainer::checkpoint_config(reader_.index(), checkpoint_)),
        table_(model_table(run_, world)) {
    hf_.architecture = &architecture_for(run_.model, run_.moe);
    hf_.model = run_.model;
    hf_.moe = run_.moe;
    base_ = options.like.empty() ? published_.config : read_config_json(options.like);
    if (!options.like.empty()) {
      require(base_.value("model_type", "") == hf_.architecture->model_type, ExitCode::kUsage,
              "--like {}: is of type {}, the model of type {}", options.like.string(),
              base_.value("model_type", "none"), hf_.architecture->model_type);
    }
    hf_.max_positions = max_positions(base_, run_);
    plan_shards(tensor_links(*hf_.architecture, table_.params));
  }

  const std::vector<Shard>& shards() const { return shards_; }

  std::string shard_name(size_t shard) const {
    return shards_.size() == 1 ? kWeightsFile
                               : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards_.size());
  }

  void write_shard(size_t shard, const fs::path& folder) {
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (const TensorLink& link : shards_[shard]) {
      tensors.push_back({link.theirs, format_of(link, options_, published_), link.their_shape});
    }
    SafetensorsWriter writer(folder / shard_name(shard), tensors);
    for (size_t i = 0; i < tensors.size(); ++i) write_tensor(shards_[shard][i], tensors[i].format, writer);
    writer.close();
  }

  // Everything but the weights.
  void write_rest(const fs::path& folder) {
    json config = write_hf_config(base_, hf_, options_.format.value_or(published_.format));
    write_tokenizer(folder, config);
    write_text(folder / kConfigFile, config.dump(2) + "\n");
    if (shards_.size() == 1) return;
    json map = json::object();
    for (size_t shard = 0; shard < shards_.size(); ++shard) {
      for (const TensorLink& link : shards_[shard]) map[link.theirs] = shard_name(shard);
    }
    const json index = {{"metadata", {{"total_size", report().bytes}}}, {"weight_map", map}};
    write_text(folder / kWeightsIndexFile, index.dump(2) + "\n");
  }

  TransferReport report() const {
    TransferReport r{.model_type = hf_.architecture->model_type,
                     .parameters = table_.params.numel(),
                     .tensors = 0,
                     .files = shards_.size(),
                     .bytes = 0,
                     .format = options_.format.value_or(published_.format)};
    for (const Shard& shard : shards_) {
      r.tensors += shard.size();
      for (const TensorLink& link : shard) r.bytes += bytes_of(link);
    }
    return r;
  }

 private:
  uint64_t bytes_of(const TensorLink& link) const {
    return uint64_t(link.numel() * size_of(format_of(link, options_, published_)));
  }

  // In the order of the model; a file ends before it would grow too large.
  void plan_shards(const std::vector<TensorLink>& links) {
    uint64_t bytes = 0;
    for (const TensorLink& link : links) {
      if (shards_.empty() || bytes + bytes_of(link) > options_.shard_bytes) {
        shards_.emplace_back();
        bytes = 0;
      }
      bytes += bytes_of(link);
      shards_.back().push_back(link);
    }
  }

  void write_tensor(const TensorLink& link, FloatFormat format, SafetensorsWriter& writer) {
    const device::ParamRow& row = table_.params.row(link.row);
    for (int64_t at = 0; at < link.numel(); at += kTransferChunk) {
      values_.resize(size_t(std::min(kTransferChunk, link.numel() - at)));
      bytes_.resize(values_.size() * size_t(size_of(format)));
      reader_.read(row.name, row.shape, link.begin + at, values_);
      const int64_t overflow = encode(format, values_, bytes_);
      if (overflow >= 0) {
        fail(ExitCode::kUsage, "tensor '{}' holds {}, which {} cannot; use --dtype bfloat16 or float32",
             link.theirs, values_[size_t(overflow)], name_of(format));
      }
      writer.write(bytes_);
    }
  }

  // Those that came with the model, those of another folder, or the checkpoint's own with its two marks.
  void write_tokenizer(const fs::path& folder, json& config) {
    const fs::path from = options_.like.empty() ? checkpoint_ : options_.like;
    const std::vector<std::string> files =
        options_.like.empty() ? published_.files : companion_files(options_.like);
    for (const std::string& name : files) {
      write_text(folder / name, base::read_file(from / name, ExitCode::kCheckpoint));
    }
    const std::string& own = reader_.index().tokenizer;
    if (!files.empty() || own.empty()) return;
    write_text(folder / own, base::read_file(checkpoint_ / own, ExitCode::kCheckpoint));
    const auto tokenizer = data::load_tokenizer(checkpoint_ / own);
    config["bos_token_id"] = tokenizer->bos();
    config["eos_token_id"] = tokenizer->eos();
    if (tokenizer->kind() == "tokenizer_json") write_tokenizer_config(folder, *tokenizer);
  }

  // transformers finds its class here. Special tokens by their text, which stands in tokenizer.json.
  void write_tokenizer_config(const fs::path& folder, const data::Tokenizer& tokenizer) const {
    json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"model_max_length", hf_.max_positions}};
    const json file = json::parse(tokenizer.definition());
    for (const json& token : file.value("added_tokens", json::array())) {
      if (token.value("id", -1) == tokenizer.bos()) config["bos_token"] = token["content"];
      if (token.value("id", -1) == tokenizer.eos()) config["eos_token"] = token["content"];
    }
    write_text(folder / "tokenizer_config.json", config.dump(2) + "\n");
  }

  void write_text(const fs::path& path, const std::string& text) const {
    base::FileWriter writer(path, ExitCode::kCheckpoint);
    writer.write(text);
    writer.close();
  }

  const ExportOptions& options_;
  const fs::path checkpoint_;
  trainer::TensorReader reader_;
  const Published published_;
  const trainer::RunConfig run_;
  const ModelTable table_;
  HfModel hf_;
  json base_;  // config.json to begin with, or null
  std::vector<Shard> shards_;
  std::vector<float> values_;
  std::vector<std::byte> bytes_;
};

}  // namespace

TransferReport export_model(const ExportOptions& options, comm::World& world) {
  const auto ranks = patient_ranks(world, "export");
  Exporter exporter(options, trainer::find_checkpoint(options.from, *ranks), world);
  SharedFolder folder(*ranks, options.to);
  folder.on_all("files", [&] {
    for (size_t i = size_t(ranks->rank()); i < exporter.shards().size(); i += size_t(ranks->size())) {
      exporter.write_shard(i, folder.path());
    }
  });
  folder.on_first("config.json", [&] { exporter.write_rest(folder.path()); });
  folder.commit();
  return exporter.report();
}

}  // namespace cadre::interop
