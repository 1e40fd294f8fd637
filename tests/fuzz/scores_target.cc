// Scores beside a shard: a well-formed HDF5 file whose contents lie. Names of columns, hashes and scores are the input's,
// the counts are the manifest's, and datasets may be missing, longer or of another type. Of libhdf5's own parser see
// shard_target.cc.
#include "data/scores.h"

#include <cmath>

#include "data/hdf5_handles.h"
#include "tests/fuzz/targets.h"

namespace cadre::fuzz {
namespace {

constexpr int kDocuments = 4;

data::Manifest manifest_of(int64_t documents) {
  data::Manifest manifest;
  manifest.folder = folder();
  manifest.tokenizer_sha256 = std::string(64, 'a');
  manifest.vocab_size = 100;
  data::ShardInfo shard;
  shard.file = "shard.h5";
  shard.sha256 = std::string(64, 'b');
  shard.documents = documents;
  manifest.splits = {{"train", {shard}, {{.name = "web"}}}};
  return manifest;
}

const std::filesystem::path& good_scores() {
  static const std::filesystem::path file = [] {
    const auto path = folder() / "scores.h5";
    data::write_scores(path,
                       {std::string(64, 'b'), std::string(64, 'a'), "model", "settings", {"nats", "tokens"}},
                       {{1, 2, 3, 4}, {5, 6, 7, 8}});
    return path;
  }();
  return file;
}

void mix_in(std::string& values, std::string_view& input) {
  const size_t taken = std::min(input.size(), values.size());
  for (size_t i = 0; i < taken; ++i) values[i] = char(values[i] ^ input[i]);
  input.remove_prefix(taken);
}

void lie_in_attribute(hid_t file, const char* name, std::string_view& input) {
  const hid_t attribute = H5Aopen(file, name, H5P_DEFAULT), type = H5Aget_type(attribute),
              space = H5Aget_space(attribute);
  std::string values(size_t(H5Sget_simple_extent_npoints(space)) * H5Tget_size(type), '\0');
  H5Aread(attribute, type, values.data());
  mix_in(values, input);
  H5Awrite(attribute, type, values.data());
  H5Sclose(space);
  H5Tclose(type);
  H5Aclose(attribute);
}

void lie_in_dataset(hid_t file, const char* name, std::string_view& input) {
  const hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
  std::string values(kDocuments * sizeof(double), '\0');
  H5Dread(set, H5T_IEEE_F64LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  mix_in(values, input);
  H5Dwrite(set, H5T_IEEE_F64LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  H5Dclose(set);
}

// 0: as it is; 1: gone; else another type or length under the same name.
void replace_dataset(hid_t file, const char* name, int how) {
  if (how == 0) return;
  H5Ldelete(file, name, H5P_DEFAULT);
  if (how == 1) return;
  const hsize_t length = how == 2 ? kDocuments : kDocuments + 1;
  const hid_t space = H5Screate_simple(1, &length, nullptr);
  const hid_t set = H5Dcreate2(file, name, how == 2 ? H5T_STD_I64LE : H5T_IEEE_F64LE, space, H5P_DEFAULT,
                               H5P_DEFAULT, H5P_DEFAULT);
  H5Dclose(set);
  H5Sclose(space);
}

}  // namespace

// The first bytes choose the manifest's count and what becomes of a dataset; the rest goes over the contents.
void scores_target(std::string_view input) {
  if (input.size() < 2) return;
  const data::Manifest manifest = manifest_of(std::max(0, kDocuments + int8_t(input[0]) / 64));
  const int how = uint8_t(input[1]) % 16;
  input.remove_prefix(2);
  const auto path = data::score_file(manifest, "lies", "shard.h5");
  std::filesystem::create_directories(path.parent_path());
  std::filesystem::copy_file(good_scores(), path, std::filesystem::copy_options::overwrite_existing);
  {
    const data::Hdf5Lock lock;
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    for (const char* name : {"score_0", "score_1"}) lie_in_dataset(file, name, input);
    for (const char* name : {"columns", "settings", "model", "tokenizer_sha256", "shard_sha256"})
      lie_in_attribute(file, name, input);
    if (how < 4) replace_dataset(file, "score_1", how);
    H5Fclose(file);
  }
  survive([&] {
    (void)data::read_score_header(path);
    const data::Scores scores = data::load_scores(manifest, manifest.splits[0], "lies");
    for (const auto& column : scores.values) {
      if (column.size() != size_t(manifest.splits[0].shards[0].documents)) std::abort();
      for (const double x : column) {
        if (!std::isfinite(x)) std::abort();  // would reach an order or a share
      }
    }
  });
}

}  // namespace cadre::fuzz
