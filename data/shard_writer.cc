// Writing shards: built in memory by HDF5's core driver, then written as plain bytes, so that a full disk is
// one clean error of FileWriter and the file appears under its name only when it is whole.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "data/hdf5_handles.h"
#include "data/shard.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

// 32 or 64 KiB: small enough that reading one document of some hundred tokens does not cost a large chunk,
// large enough that the chunk index stays below 0.1% of the file.
constexpr hsize_t kChunkElements = 16384;

Hdf5Handle make_file_in_memory(uint64_t about_bytes, const std::string& what) {
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, what);
  hdf5_check(H5Pset_fapl_core(access, about_bytes + (size_t(1) << 20), false), what);
  // The format of 1.8: all its headers have checksums, and libhdf5 crashes on some damaged ones that have
  // none.
  hdf5_check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), what);
  const Hdf5Handle create(H5Pcreate(H5P_FILE_CREATE), H5Pclose, what);
  hdf5_check(H5Pset_obj_track_times(create, false), what);
  return Hdf5Handle(H5Fcreate("shard", H5F_ACC_TRUNC, create, access), H5Fclose, what);
}

// dims: (rows) or (rows, columns).
void write_dataset(hid_t file, const char* name, std::vector<hsize_t> dims, hid_t file_type,
                   hid_t memory_type, const void* values, const std::string& what) {
  const int rank = static_cast<int>(dims.size());
  const Hdf5Handle space(H5Screate_simple(rank, dims.data(), nullptr), H5Sclose, what);
  const Hdf5Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, what);
  std::vector<hsize_t> chunk = dims;
  chunk[0] = std::min(chunk[0], kChunkElements);
  hdf5_check(H5Pset_chunk(create, rank, chunk.data()), what);
  hdf5_check(H5Pset_fletcher32(create), what);
  hdf5_check(H5Pset_obj_track_times(create, false), what);
  const Hdf5Handle set(H5Dcreate2(file, name, file_type, space, H5P_DEFAULT, create, H5P_DEFAULT), H5Dclose,
                       what);
  hdf5_check(H5Dwrite(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), what);
}

void write_int_attribute(hid_t file, const char* name, int value, const std::string& what) {
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose, what);
  const Hdf5Handle attribute(H5Acreate2(file, name, H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                             what);
  hdf5_check(H5Awrite(attribute, H5T_NATIVE_INT, &value), what);
}

// Fixed-length UTF-8 strings, zero-padded to the longest.
void write_text_attribute(hid_t file, const char* name, const std::vector<std::string>& texts, bool scalar,
                          const std::string& what) {
  size_t width = 1;
  for (const std::string& t : texts) width = std::max(width, t.size());
  std::string packed(width * texts.size(), '\0');
  for (size_t i = 0; i < texts.size(); ++i)
    std::copy(texts[i].begin(), texts[i].end(), packed.begin() + i * width);
  const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose, what);
  hdf5_check(H5Tset_size(type, width), what);
  hdf5_check(H5Tset_strpad(type, H5T_STR_NULLPAD), what);
  hdf5_check(H5Tset_cset(type, H5T_CSET_UTF8), what);
  const hsize_t count = texts.size();
  const Hdf5Handle space(scalar ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &count, nullptr), H5Sclose,
                         what);
  const Hdf5Handle attribute(H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, what);
  hdf5_check(H5Awrite(attribute, type, packed.data()), what);
}

// H5Fget_file_image() of HDF5 1.10 clears the superblock's "open for writing" flag but not in the checksum
// over it. The checksum is Bob Jenkins's lookup3 of the 44 bytes before it (HDF5 File Format 3.0, II.A and
// III.H).
void mend_superblock(std::vector<std::byte>& image, const std::string& what) {
  constexpr size_t kVersionAt = 8, kFlagsAt = 11, kCovered = 44;
  require(image.size() > kCovered + 4 && image[kVersionAt] == std::byte{2}, ExitCode::kData,
          "{}: HDF5 built superblock version {}, expected 2", what, int(image.at(kVersionAt)));
  image[kFlagsAt] = std::byte{0};
  std::array<uint32_t, kCovered / 4> words;
  std::memcpy(words.data(), image.data(), kCovered);
  uint32_t a = 0xdeadbeef + kCovered, b = a, c = a;
  const auto fold = [](uint32_t& x, uint32_t& y, uint32_t& z, int bits) {
    x = (x - z) ^ std::rotl(z, bits);
    z += y;
  };
  for (size_t i = 0; i + 3 <= words.size() - 2; i += 3) {
    a += words[i], b += words[i + 1], c += words[i + 2];
    fold(a, b, c, 4), fold(b, c, a, 6), fold(c, a, b, 8), fold(a, b, c, 16), fold(b, c, a, 19),
        fold(c, a, b, 4);
  }
  a += words[9], b += words[10];
  const auto last = [](uint32_t& x, uint32_t y, int bits) { x = (x ^ y) - std::rotl(y, bits); };
  last(c, b, 14), last(a, c, 11), last(b, a, 25), last(c, b, 16), last(a, c, 4), last(b, a, 14),
      last(c, b, 24);
  std::memcpy(image.data() + kCovered, &c, sizeof c);
}

std::vector<std::byte> image_of(hid_t file, const std::string& what) {
  hdf5_check(H5Fflush(file, H5F_SCOPE_LOCAL), what);
  const ssize_t size = H5Fget_file_image(file, nullptr, 0);
  hdf5_check(size < 0 ? -1 : 0, what);
  std::vector<std::byte> image(static_cast<size_t>(size));
  hdf5_check(H5Fget_file_image(file, image.data(), image.size()) < 0 ? -1 : 0, what);
  mend_superblock(image, what);
  return image;
}

}  // namespace

struct ShardWriter::Impl {
  ShardHeader header;
  bool narrow = true;
  std::vector<uint16_t> narrow_tokens;
  std::vector<uint32_t> wide_tokens;
  std::vector<uint64_t> offsets = {0};
  std::vector<uint16_t> domains;
  std::vector<uint32_t> bytes;
  std::vector<DocHash> hashes;
  std::vector<uint8_t> loss_mask, answers;
  std::vector<uint64_t> answer_offsets = {0};
  std::vector<uint16_t> levels;

  bool masked() const { return header.kind == SetKind::kInstruction || header.kind == SetKind::kPreference; }
  void write_extras(hid_t file, const std::string& what) const {
    if (masked())
      write_dataset(file, "loss_mask", {loss_mask.size()}, H5T_STD_U8LE, H5T_NATIVE_UINT8, loss_mask.data(),
                    what);
    if (header.kind != SetKind::kPrompts) return;
    write_dataset(file, "answer_offsets", {answer_offsets.size()}, H5T_STD_U64LE, H5T_NATIVE_UINT64,
                  answer_offsets.data(), what);
    write_dataset(file, "answers", {answers.size()}, H5T_STD_U8LE, H5T_NATIVE_UINT8, answers.data(), what);
    write_dataset(file, "level", {levels.size()}, H5T_STD_U16LE, H5T_NATIVE_UINT16, levels.data(), what);
  }

  std::vector<std::byte> build(const std::string& what) {
    const Hdf5Lock lock;
    const hsize_t documents = domains.size(), tokens = offsets.back();
    const Hdf5Handle file = make_file_in_memory(tokens * (narrow ? 2 : 4) + documents * 32, what);
    write_int_attribute(file, "format_version", Manifest::kFormatVersion, what);
    write_int_attribute(file, "vocab_size", header.vocab_size, what);
    write_text_attribute(file, "tokenizer_sha256", {header.tokenizer_sha256}, true, what);
    write_text_attribute(file, "split", {header.split}, true, what);
    write_text_attribute(file, "domains", header.domains, false, what);
    if (narrow) {
      write_dataset(file, "tokens", {tokens}, H5T_STD_U16LE, H5T_NATIVE_UINT16, narrow_tokens.data(), what);
      std::vector<uint16_t>().swap(narrow_tokens);  // the image needs the room
    } else {
      write_dataset(file, "tokens", {tokens}, H5T_STD_U32LE, H5T_NATIVE_UINT32, wide_tokens.data(), what);
      std::vector<uint32_t>().swap(wide_tokens);
    }
    write_dataset(file, "doc_offsets", {documents + 1}, H5T_STD_U64LE, H5T_NATIVE_UINT64, offsets.data(),
                  what);
    write_dataset(file, "doc_domain", {documents}, H5T_STD_U16LE, H5T_NATIVE_UINT16, domains.data(), what);
    write_dataset(file, "doc_bytes", {documents}, H5T_STD_U32LE, H5T_NATIVE_UINT32, bytes.data(), what);
    write_dataset(file, "doc_hash", {documents, 16}, H5T_STD_U8LE, H5T_NATIVE_UINT8, hashes.data(), what);
    write_extras(file, what);
    return image_of(file, what);
  }
};

ShardWriter::ShardWriter(ShardHeader header) : impl_(std::make_unique<Impl>()) {
  require(header.domains.size() >= 1 && header.domains.size() <= 65536, ExitCode::kData,
          "a shard holds 1 to 65536 domains, found {}", header.domains.size());
  impl_->narrow = header.vocab_size <= 65536;
  impl_->header = std::move(header);
}
ShardWriter::~ShardWriter() = default;

void ShardWriter::add(std::span<const int32_t> tokens, int domain, uint32_t text_bytes, const DocHash& hash,
                      const DocumentExtras& extras) {
  Impl& s = *impl_;
  require(tokens.size() >= 2, ExitCode::kData, "a document has {} tokens, expected at least bos and eos",
          tokens.size());
  require(domain >= 0 && size_t(domain) < s.header.domains.size(), ExitCode::kData,
          "domain {} of a document, expected 0 to {}", domain, s.header.domains.size() - 1);
  for (const int32_t token : tokens) {
    require(token >= 0 && token < s.header.vocab_size, ExitCode::kData, "token {}, expected 0 to {}", token,
            s.header.vocab_size - 1);
  }
  if (s.narrow) {
    s.narrow_tokens.insert(s.narrow_tokens.end(), tokens.begin(), tokens.end());
  } else {
    s.wide_tokens.insert(s.wide_tokens.end(), tokens.begin(), tokens.end());
  }
  s.offsets.push_back(s.offsets.back() + tokens.size());
  s.domains.push_back(static_cast<uint16_t>(domain));
  s.bytes.push_back(text_bytes);
  s.hashes.push_back(hash);
  if (s.masked()) {
    require(extras.loss_mask.size() == tokens.size(), ExitCode::kData, "{} loss mask entries for {} tokens",
            extras.loss_mask.size(), tokens.size());
    s.loss_mask.insert(s.loss_mask.end(), extras.loss_mask.begin(), extras.loss_mask.end());
  }
  if (s.header.kind != SetKind::kPrompts) return;
  require(extras.level >= 0 && extras.level <= 65535, ExitCode::kData, "level {}, expected 0 to 65535",
          extras.level);
  s.answers.insert(s.answers.end(), extras.answer.begin(), extras.answer.end());
  s.answers.push_back(0);
  s.answer_offsets.push_back(s.answers.size());
  s.levels.push_back(static_cast<uint16_t>(extras.level));
}

int64_t ShardWriter::tokens() const {
  return static_cast<int64_t>(impl_->offsets.back());
}
int64_t ShardWriter::documents() const {
  return static_cast<int64_t>(impl_->domains.size());
}

ShardInfo ShardWriter::finish(const std::filesystem::path& folder, const std::string& file_name) {
  require(documents() > 0, ExitCode::kData, "{}: a shard without documents is not written", file_name);
  const std::filesystem::path final_path = folder / file_name;
  const std::filesystem::path temporary = final_path.string() + fmt::format(".tmp-{}", getpid());
  ShardInfo info{file_name, 0, "", documents(), tokens()};
  const std::vector<std::byte> image = impl_->build("cannot build shard " + final_path.string());
  try {
    base::FileWriter writer(temporary, ExitCode::kData);
    writer.write(image);
    writer.close();
    info.bytes = writer.bytes();
    info.sha256 = writer.sha256();
    base::rename_durably(temporary, final_path, ExitCode::kData);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  ShardHeader header = std::move(impl_->header);
  *this->impl_ = Impl{};
  impl_->narrow = header.vocab_size <= 65536;
  impl_->header = std::move(header);
  return info;
}

}  // namespace cadre::data
