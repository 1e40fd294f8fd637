#include "data/hdf5_read.h"

#include <fmt/format.h>

namespace cadre::data {
namespace {

void check_integer(hid_t type, size_t bytes, bool is_signed, const std::string& what) {
  require(H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) == bytes &&
              H5Tget_order(type) != H5T_ORDER_BE &&
              H5Tget_sign(type) == (is_signed ? H5T_SGN_2 : H5T_SGN_NONE),
          ExitCode::kData, "{}: expected a little-endian {} integer of {} bytes, found another type", what,
          is_signed ? "signed" : "unsigned", bytes);
}

// Every chunk is there, whole and with its checksum: libhdf5 reads a chunk that the index lacks as zeros. The
// index is the one part of the file that has no checksum of its own.
void check_chunks(hid_t set, hid_t space, uint64_t length, size_t width, const std::string& what) {
  const Hdf5Handle create(H5Dget_create_plist(set), H5Pclose, what);
  hsize_t chunk = 0;
  require(H5Pget_layout(create) == H5D_CHUNKED && H5Pget_chunk(create, 1, &chunk) == 1 && chunk > 0 &&
              chunk <= length,
          ExitCode::kData, "{}: expected a dataset in chunks of one dimension", what);
  hsize_t chunks = 0;
  hdf5_check(H5Dget_num_chunks(set, space, &chunks), what);
  require(chunks == (length + chunk - 1) / chunk, ExitCode::kData, "{}: {} chunks, expected {}", what, chunks,
          (length + chunk - 1) / chunk);
  for (hsize_t begin = 0; begin < length; begin += chunk) {
    unsigned skipped_filters = 0;
    haddr_t address = HADDR_UNDEF;
    hsize_t bytes = 0;
    hdf5_check(H5Dget_chunk_info_by_coord(set, &begin, &skipped_filters, &address, &bytes), what);
    require(address != HADDR_UNDEF && skipped_filters == 0 && bytes == chunk * width + 4, ExitCode::kData,
            "{}: the chunk of element {} is missing or has {} bytes, expected {} with its checksum", what,
            begin, bytes, chunk * width + 4);
  }
}

void check_float(hid_t type, size_t bytes, const std::string& what) {
  require(H5Tget_class(type) == H5T_FLOAT && H5Tget_size(type) == bytes && H5Tget_order(type) != H5T_ORDER_BE,
          ExitCode::kData, "{}: expected little-endian floats of {} bytes, found another type", what, bytes);
}

}  // namespace

Hdf5Handle open_hdf5(const std::string& name, const char* kind) {
  const std::string what = fmt::format("{}: cannot open {}", name, kind);
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, what);
  return Hdf5Handle(H5Fopen(name.c_str(), H5F_ACC_RDONLY, access), H5Fclose, what);
}

int read_int_attribute(hid_t file, const char* name, const std::string& shard) {
  const std::string what = fmt::format("{}: attribute {}", shard, name);
  const Hdf5Handle attribute(H5Aopen(file, name, H5P_DEFAULT), H5Aclose, what);
  check_integer(Hdf5Handle(H5Aget_type(attribute), H5Tclose, what), 4, true, what);
  const Hdf5Handle space(H5Aget_space(attribute), H5Sclose, what);
  require(H5Sget_simple_extent_npoints(space) == 1, ExitCode::kData, "{}: expected one value", what);
  int value = 0;
  hdf5_check(H5Aread(attribute, H5T_NATIVE_INT, &value), what);
  return value;
}

std::vector<std::string> read_text_attribute(hid_t file, const char* name, const std::string& shard) {
  const std::string what = fmt::format("{}: attribute {}", shard, name);
  const Hdf5Handle attribute(H5Aopen(file, name, H5P_DEFAULT), H5Aclose, what);
  const Hdf5Handle type(H5Aget_type(attribute), H5Tclose, what);
  require(H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0, ExitCode::kData,
          "{}: expected strings of fixed length", what);
  const Hdf5Handle space(H5Aget_space(attribute), H5Sclose, what);
  const hssize_t count = H5Sget_simple_extent_npoints(space);
  const size_t width = H5Tget_size(type);
  // Attributes are at most 64 KiB in this format, so a larger product is a lie.
  require(count >= 0 && size_t(count) <= 65536 && width * size_t(count) <= 65536, ExitCode::kData,
          "{}: {} strings of {} bytes, expected at most 65536 bytes", what, count, width);
  std::string packed(width * size_t(count), '\0');
  hdf5_check(H5Aread(attribute, type, packed.data()), what);
  std::vector<std::string> texts;
  for (hssize_t i = 0; i < count; ++i) {
    const std::string cell = packed.substr(size_t(i) * width, width);
    texts.push_back(cell.substr(0, cell.find('\0')));
  }
  return texts;
}

Hdf5Handle open_dataset(hid_t file, const char* name, uint64_t length, size_t width, const std::string& shard,
                        bool floats) {
  const std::string what = fmt::format("{}: /{}", shard, name);
  Hdf5Handle set(H5Dopen2(file, name, H5P_DEFAULT), H5Dclose, what);
  const Hdf5Handle type(H5Dget_type(set), H5Tclose, what);
  floats ? check_float(type, width, what) : check_integer(type, width, false, what);
  const Hdf5Handle space(H5Dget_space(set), H5Sclose, what);
  hsize_t found = 0;
  require(H5Sget_simple_extent_ndims(space) == 1 && H5Sget_simple_extent_dims(space, &found, nullptr) == 1,
          ExitCode::kData, "{}: expected one dimension", what);
  require(found == length, ExitCode::kData, "{}: {} elements, expected {}", what, found, length);
  check_chunks(set, space, length, width, what);
  return set;
}

}  // namespace cadre::data
