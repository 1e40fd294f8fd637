#include "data/hdf5_image.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// 32 or 64 KiB: small enough that reading one document of some hundred tokens does not cost a large chunk,
// large enough that the chunk index stays below 0.1% of the file.
constexpr hsize_t kChunkElements = 16384;

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

}  // namespace

Hdf5Handle make_file_in_memory(uint64_t about_bytes, const std::string& what) {
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, what);
  hdf5_check(H5Pset_fapl_core(access, about_bytes + (size_t(1) << 20), false), what);
  // The format of 1.8: all its headers have checksums, and libhdf5 crashes on some damaged ones that have
  // none.
  hdf5_check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), what);
  const Hdf5Handle create(H5Pcreate(H5P_FILE_CREATE), H5Pclose, what);
  hdf5_check(H5Pset_obj_track_times(create, false), what);
  return Hdf5Handle(H5Fcreate("image", H5F_ACC_TRUNC, create, access), H5Fclose, what);
}

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

std::vector<std::byte> image_of(hid_t file, const std::string& what) {
  hdf5_check(H5Fflush(file, H5F_SCOPE_LOCAL), what);
  const ssize_t size = H5Fget_file_image(file, nullptr, 0);
  hdf5_check(size < 0 ? -1 : 0, what);
  std::vector<std::byte> image(static_cast<size_t>(size));
  hdf5_check(H5Fget_file_image(file, image.data(), image.size()) < 0 ? -1 : 0, what);
  mend_superblock(image, what);
  return image;
}

}  // namespace cadre::data
