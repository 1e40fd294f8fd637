#include <algorithm>
#include <set>

#include "data/tokenizer.h"
#include "parallel/base/log.h"
#include "trainer/interop/hf_config.h"
#include "trainer/interop/hf_folder.h"
#include "trainer/interop/model_table.h"
#include "trainer/interop/shared_folder.h"
#include "trainer/interop/transfer.h"
#include "trainer/run/checkpoint_index.h"

namespace cadre::interop {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using trainer::CheckpointIndex;

void apply(const Upcycle& upcycle, HfModel& hf, const std::string& where) {
  require(!hf.moe, ExitCode::kUsage, "{}: {} has experts already; --upcycle takes a dense model", where,
          hf.architecture->model_type);
  hf.moe.emplace();
  hf.moe->num_experts = upcycle.experts;
  hf.moe->top_k = upcycle.top_k;
  hf.moe->width = int(hf.model.ffn_width);
  hf.moe->source = where;
  hf.moe->router["name"] = "softmax_topk";
  hf.moe->router["normalize"] = "true";
  hf.model.first_dense_layers = 0;
  hf.model.moe_every = 1;
}

// Names that some files carry although they say nothing new: angles that follow from config.json, and the head
// of a model that has none of its own.
bool redundant(const std::string& name, const HfModel& hf) {
  return name.ends_with(".rotary_emb.inv_freq") || (hf.model.tie_head && name == "lm_head.weight");
}

std::string sample(const std::set<std::string>& names) {
  constexpr size_t kMost = 3;
  std::vector<std::string> first;
  for (const std::string& name : names) {
    if (first.size() < kMost) first.push_back(name);
  }
  return fmt::format("{}{}", fmt::join(first, ", "),
                     names.size() > kMost ? fmt::format(" and {} more", names.size() - kMost) : "");
}

// A config.json may claim any number of experts; nothing is made for more than the files can hold.
void check_count(const HfModel& hf, const HfWeights& weights, const std::string& where) {
  if (!hf.moe) return;
  constexpr int64_t kSlack = 1 << 16, kMatrices = 3;
  int64_t layers = 0;
  for (int i = 0; i < hf.model.layers; ++i) layers += hf.model.is_moe(i);
  const int64_t wanted = layers * hf.moe->num_experts * kMatrices;
  require(wanted <= int64_t(weights.size()) + kSlack, ExitCode::kData,
          "{}: it asks for {} matrices of experts, the files hold {} tensors", where, wanted, weights.size());
}

// The links of the model, all of which the files have in their shape; and the files have nothing else.
std::vector<TensorLink> match(const HfModel& hf, const device::ParamTable& params, const HfWeights& weights,
                              const std::string& where) {
  std::vector<TensorLink> links = tensor_links(*hf.architecture, params);
  std::set<std::string> missing, unknown;
  for (const std::string& name : weights.names()) {
    if (!redundant(name, hf)) unknown.insert(name);
  }
  for (const TensorLink& link : links) {
    if (link.theirs.empty()) continue;
    unknown.erase(link.theirs);
    if (!weights.has(link.theirs)) {
      missing.insert(link.theirs);
    } else if (weights.at(link.theirs).shape != link.their_shape) {
      fail(ExitCode::kData, "{}: tensor '{}' has shape ({}), expected ({}) from {}", where, link.theirs,
           fmt::join(weights.at(link.theirs).shape, ", "), fmt::join(link.their_shape, ", "), kConfigFile);
    }
  }
  require(missing.empty(), ExitCode::kData, "{}: missing from the files: {}", where, sample(missing));
  require(unknown.empty(), ExitCode::kData, "{}: not part of a model of type {}: {}", where,
          hf.architecture->model_type, sample(unknown));
  return links;
}

// Calls body(begin, values) for the link's elements, a chunk at a time.
template <class Body>
void for_each_chunk(const TensorLink& link, HfWeights& weights, const device::ParamTable& params,
                    uint64_t seed, const Body& body) {
  if (link.theirs.empty()) {  // a new router: the values that a fresh run would start with
    device::ParamTable one;
    device::ParamRow row = params.row(link.row);
    row.bucket = 0;
    one.add(row);
    const device::ParamLayout layout(one, 1, 0);
    device::ParamStore<trainer::Real> store(layout, device::DeviceKind::kCpu, false);
    store.initialize(seed);
    const auto values = store.values(row.group);
    return body(0, std::span<const float>(values.data(), size_t(values.size())));
  }
  std::vector<float> values;
  for (int64_t at = 0; at < link.numel(); at += kTransferChunk) {
    values.resize(size_t(std::min(kTransferChunk, link.numel() - at)));
    weights.read(link.theirs, at, values);
    body(at, std::span<const float>(values));
  }
}

// A head that is said to be the embedding must be it.
void check_tied_head(const HfModel& hf, HfWeights& weights, const std::string& where) {
  constexpr const char *kHead = "lm_head.weight", *kEmbedding = "model.embed_tokens.weight";
  if (!hf.model.tie_head || !weights.has(kHead)) return;
  bool same = weights.at(kHead).shape == weights.at(kEmbedding).shape;
  std::vector<float> head, embedding;
  for (int64_t at = 0, n = weights.at(kEmbedding).numel(); same && at < n; at += kTransferChunk) {
    head.resize(size_t(std::min(kTransferChunk, n - at)));
    embedding.resize(head.size());
    weights.read(kHead, at, head);
    weights.read(kEmbedding, at, embedding);
    same = std::equal(head.begin(), head.end(), embedding.begin());
  }
  require(same, ExitCode::kData, "{}: {} says that the head is tied, but {} is not {}", where, kConfigFile,
          kHead, kEmbedding);
}

// This rank's part of the links, in their order: about the same number of elements on each.
std::vector<TensorLink> own_part(const std::vector<TensorLink>& links, int rank, int ranks) {
  int64_t total = 0, before = 0;
  for (const TensorLink& link : links) total += link.numel();
  std::vector<TensorLink> own;
  for (const TensorLink& link : links) {
    const int64_t middle = before + link.numel() / 2;
    if (int(double(middle) / double(total) * ranks) == rank) own.push_back(link);
    before += link.numel();
  }
  return own;
}

// Writes this rank's tensors and enters them, and the file, into its part of the index.
void write_tensors(const std::vector<TensorLink>& links, HfWeights& weights, const device::ParamTable& params,
                   uint64_t seed, const fs::path& folder, int rank, CheckpointIndex& index) {
  const std::string file = fmt::format("rank-{:05}.bin", rank);
  base::FileWriter writer(folder / file, ExitCode::kCheckpoint);
  for (const TensorLink& link : links) {
    const device::ParamRow& row = params.row(link.row);
    trainer::TensorInfo& tensor = index.tensors[row.name];
    tensor.dtype = "float32";
    tensor.shape = row.shape;
    tensor.pieces.push_back({file, writer.bytes(), link.begin, link.numel()});
    for_each_chunk(link, weights, params, seed,
                   [&](int64_t, std::span<const float> values) { writer.write(std::as_bytes(values)); });
  }
  writer.close();
  index.files[file] = {writer.bytes(), writer.sha256()};
}

void copy_file(const fs::path& from, const fs::path& folder, const std::string& name,
               CheckpointIndex& index) {
  base::FileWriter writer(folder / name, ExitCode::kCheckpoint);
  writer.write(base::read_file(from, ExitCode::kData));
  writer.close();
  index.files[name] = {writer.bytes(), writer.sha256()};
}

// The checkpoint's tokenizer: one of the files that go along unchanged, or made from GPT-2's two.
void add_tokenizer(const ImportOptions& options, const HfModel& hf, const fs::path& folder,
                   CheckpointIndex& index) {
  if (!options.tokenizer) return;
  fs::path source;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json"}) {
    if (source.empty() && fs::exists(options.from / name)) source = options.from / name;
  }
  if (source.empty()) return;
  try {
    const auto tokenizer = data::load_tokenizer(source);
    require(tokenizer->vocab_size() <= hf.model.vocab, ExitCode::kData, "{}: has {} entries, the model {}",
            source.string(), tokenizer->vocab_size(), hf.model.vocab);
    index.tokenizer = source.filename().string();
    if (index.tokenizer != "vocab.json") return;
    index.tokenizer = tokenizer->file_name();
    data::save_tokenizer(*tokenizer, folder);
    const std::string text = tokenizer->definition();
    index.files[index.tokenizer] = {text.size(), base::sha256_text(text)};
  } catch (const Error& error) {
    fail(error.code(), "{}. Import with --no-tokenizer to do without one", error.what());
  }
}

// The format of most tensors, and those of another one.
json formats_of(const HfWeights& weights, FloatFormat& most) {
  std::map<FloatFormat, size_t> count;
  for (const std::string& name : weights.names()) ++count[weights.at(name).format];
  most = std::max_element(count.begin(), count.end(), [](const auto& a, const auto& b) {
           return a.second < b.second;
         })->first;
  json others = json::object();
  for (const std::string& name : weights.names()) {
    if (weights.at(name).format != most) others[name] = name_of(weights.at(name).format);
  }
  return others;
}

}  // namespace

TransferReport import_model(const ImportOptions& options, comm::World& world) {
  const std::string where = (options.from / kConfigFile).string();
  const json config = read_config_json(options.from);
  HfModel hf = read_hf_config(config, where);
  HfWeights weights(options.from);
  check_count(hf, weights, where);
  if (options.upcycle) apply(*options.upcycle, hf, where);
  const int64_t seq_len = options.seq_len > 0 ? options.seq_len : std::min<int64_t>(hf.max_positions, 2048);
  const trainer::RunConfig run = model_run(hf.model, hf.moe, std::max<int64_t>(1, seq_len), where);
  const ModelTable table = model_table(run, world);
  const auto links = match(hf, table.params, weights, options.from.string());

  CheckpointIndex index;
  index.config = trainer::resolved_yaml(run);
  index.run = json::object();
  TransferReport report{.model_type = hf.architecture->model_type,
                        .parameters = table.params.numel(),
                        .tensors = weights.size(),
                        .files = 0,
                        .bytes = weights.bytes()};
  const json others = formats_of(weights, report.format);
  index.state = {{"model", table.state},
                 {"published",
                  {{"model_type", report.model_type},
                   {"dtype", name_of(report.format)},
                   {"other_dtypes", others},
                   {"config", config},
                   {"files", companion_files(options.from)}}}};

  const auto ranks = patient_ranks(world, "import");
  SharedFolder folder(*ranks, options.to);
  folder.on_first("tokenizer", [&] {
    check_tied_head(hf, weights, options.from.string());
    add_tokenizer(options, hf, folder.path(), index);
  });
  folder.on_all("tensors", [&] {
    write_tensors(own_part(links, ranks->rank(), ranks->size()), weights, table.params, run.seed,
                  folder.path(), ranks->rank(), index);
  });
  const auto parts = ranks->gather_texts(trainer::part_json(index), "index");
  folder.on_first("index", [&] {
    for (size_t rank = 1; rank < parts.size(); ++rank) trainer::merge_part(index, parts[rank]);
    for (const std::string& name : companion_files(options.from)) {
      copy_file(options.from / name, folder.path(), name, index);
    }
    trainer::write_index(index, folder.path());
  });
  folder.commit();
  return report;
}

}  // namespace cadre::interop
