// Reading HDF5 without believing it: the type of an attribute or dataset is checked before it is read, so that libhdf5
// never converts values silently, and so is every chunk. Call these with an Hdf5Lock held; they throw Error(kData)
// naming the file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/hdf5_handles.h"

namespace cadre::data {

Hdf5Handle open_hdf5(const std::string& name, const char* kind);  // kind: "the shard", for the message
int read_int_attribute(hid_t file, const char* name, const std::string& shard);
std::vector<std::string> read_text_attribute(hid_t file, const char* name, const std::string& shard);
// A dataset of one dimension, of known length and of unsigned integers (or floats) of `width` bytes; the caller reads.
Hdf5Handle open_dataset(hid_t file, const char* name, uint64_t length, size_t width, const std::string& shard,
                        bool floats = false);

}  // namespace cadre::data
