// A well-formed HDF5 file whose contents lie: offsets, domains, bytes, token ids, masks and answers are the input's, and
// the counts in the manifest. libhdf5's own parser is out of scope, since a file reaches it only after its bytes matched
// the manifest.
#include "data/shard.h"

#include <map>

#include "data/hdf5_handles.h"
#include "tests/fuzz/targets.h"

namespace cadre::fuzz {
namespace {

// Overwrites a dataset with bytes of the input, in its own type.
void overwrite(hid_t file, const char* name, std::string_view& input) {
  const hid_t set = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(set), type = H5Dget_type(set);
  const size_t bytes = size_t(H5Sget_simple_extent_npoints(space)) * H5Tget_size(type);
  std::string values(bytes, '\0');
  H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  const size_t taken = std::min(input.size(), bytes);
  for (size_t i = 0; i < taken; ++i) values[i] = char(values[i] ^ input[i]);
  input.remove_prefix(taken);
  H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  H5Tclose(type);
  H5Sclose(space);
  H5Dclose(set);
}

using data::SetKind;

// Of each kind of set.
const data::ShardInfo& good_shard(SetKind kind) {
  static std::map<SetKind, data::ShardInfo> infos;
  if (infos.contains(kind)) return infos[kind];
  data::ShardWriter writer({std::string(64, 'a'), 100, {"web", "code"}, "train", kind});
  for (int d = 0; d < 4; ++d) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < 5 + d; ++i) tokens.push_back((7 * i + d) % 100);
    const std::vector<uint8_t> mask(tokens.size(), 1);
    writer.add(tokens, d % 2, 20, {}, {.loss_mask = mask, .answer = "42", .level = d});
  }
  return infos[kind] = writer.finish(folder(), std::string(data::name_of(kind)) + ".h5");
}

// Everything that training asks a shard for.
void read_all(const data::ShardReader& shard, SetKind kind) {
  for (int64_t d = 0; d < shard.documents(); ++d) {
    const uint64_t begin = shard.offsets()[size_t(d)], end = shard.offsets()[size_t(d) + 1];
    std::vector<int32_t> tokens(end - begin);
    shard.read_tokens(begin, tokens);
    for (const int32_t token : tokens) {
      if (token < 0 || token >= 100) std::abort();  // would index past the embedding
    }
    if (shard.doc_domain()[size_t(d)] > 1) std::abort();
    if (kind == SetKind::kPrompts) (void)(shard.answer(size_t(d)).size() + size_t(shard.level(size_t(d))));
  }
  for (const uint8_t m : shard.loss_mask())
    if (m > 1) std::abort();
}

}  // namespace

// The first bytes choose the kind of set and what the manifest says about the counts; the rest goes over the contents.
void shard_target(std::string_view input) {
  if (input.size() < 3) return;
  constexpr SetKind kKinds[] = {SetKind::kText, SetKind::kInstruction, SetKind::kPreference,
                                SetKind::kPrompts};
  const SetKind kind = kKinds[uint8_t(input[0]) % 4];
  data::ShardInfo info = good_shard(kind);
  const auto good = folder() / info.file, path = folder() / "lies.h5";
  info.documents += int8_t(input[1]);
  info.tokens += int8_t(input[2]);
  input.remove_prefix(3);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  std::filesystem::copy_file(good, path, std::filesystem::copy_options::overwrite_existing);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  for (const char* name : {"doc_offsets", "doc_domain", "tokens", "doc_bytes", "loss_mask", "answer_offsets",
                           "answers", "level"})
    if (H5Lexists(file, name, H5P_DEFAULT) > 0) overwrite(file, name, input);
  H5Fclose(file);
  info.file = "lies.h5";
  info.bytes = std::filesystem::file_size(path);
  data::Manifest manifest;
  manifest.folder = folder();
  manifest.tokenizer_sha256 = std::string(64, 'a');
  manifest.vocab_size = 100;
  manifest.kind = kind;
  manifest.splits = {{"train", {info}, {{.name = "web"}, {.name = "code"}}}};
  // A manifest is checked before its shards are opened.
  if (info.documents < 0 || info.tokens < 0) return;
  survive([&] { read_all(data::ShardReader(manifest, info, data::Verify::kSize), kind); });
}

}  // namespace cadre::fuzz
