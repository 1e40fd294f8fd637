// HDF5 files built in memory by the core driver and written as plain bytes, so that a full disk is one clean error of
// FileWriter and a file appears under its name only when it is whole. Same content, same bytes: no time stamps. Call
// these with an Hdf5Lock held; errors are Error(kData) beginning with `what`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/hdf5_handles.h"

namespace cadre::data {

Hdf5Handle make_file_in_memory(uint64_t about_bytes, const std::string& what);
// dims: (rows) or (rows, columns). Chunks of rows, each with a checksum.
void write_dataset(hid_t file, const char* name, std::vector<hsize_t> dims, hid_t file_type,
                   hid_t memory_type, const void* values, const std::string& what);
void write_int_attribute(hid_t file, const char* name, int value, const std::string& what);
// Fixed-length UTF-8 strings, zero-padded to the longest.
void write_text_attribute(hid_t file, const char* name, const std::vector<std::string>& texts, bool scalar,
                          const std::string& what);
// The whole file.
std::vector<std::byte> image_of(hid_t file, const std::string& what);

}  // namespace cadre::data
