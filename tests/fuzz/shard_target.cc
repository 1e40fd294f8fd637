// A well-formed HDF5 file whose contents lie: its offsets, domains, bytes and token ids are the input's. libhdf5's own
// parser is out of scope, since a file reaches it only after its bytes matched the manifest.
#include "data/shard.h"

#include <cstring>

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

const data::ShardInfo& good_shard() {
  static const data::ShardInfo info = [] {
    data::ShardWriter writer({std::string(64, 'a'), 100, {"web", "code"}, "train"});
    for (int d = 0; d < 4; ++d) {
      std::vector<int32_t> tokens;
      for (int i = 0; i < 5 + d; ++i) tokens.push_back((7 * i + d) % 100);
      writer.add(tokens, d % 2, 20, {});
    }
    return writer.finish(folder(), "good.h5");
  }();
  return info;
}

}  // namespace

void shard_target(std::string_view input) {
  data::ShardInfo info = good_shard();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const auto path = folder() / "lies.h5";
  std::filesystem::copy_file(folder() / "good.h5", path, std::filesystem::copy_options::overwrite_existing);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  for (const char* name : {"/doc_offsets", "/doc_domain", "/tokens", "/doc_bytes"})
    overwrite(file, name, input);
  H5Fclose(file);
  info.file = "lies.h5";
  info.bytes = std::filesystem::file_size(path);
  data::Manifest manifest;
  manifest.folder = folder();
  manifest.tokenizer_sha256 = std::string(64, 'a');
  manifest.vocab_size = 100;
  manifest.splits = {{"train", {info}, {{.name = "web"}, {.name = "code"}}}};
  survive([&] {
    const data::ShardReader shard(manifest, info, data::Verify::kSize);
    for (int64_t d = 0; d < shard.documents(); ++d) {
      const uint64_t begin = shard.offsets()[size_t(d)], end = shard.offsets()[size_t(d) + 1];
      std::vector<int32_t> tokens(end - begin);
      shard.read_tokens(begin, tokens);
      for (const int32_t token : tokens) {
        if (token < 0 || token >= 100) std::abort();  // would index past the embedding
      }
      if (shard.doc_domain()[size_t(d)] > 1) std::abort();
    }
  });
}

}  // namespace cadre::fuzz
