// What to read: the files behind the command line's names, and their division into work units. A unit is a
// fixed set of slices, chosen from the file sizes alone, so that any worker can do any unit and the result is
// the same.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace cadre::data {

enum class Format { kText, kJsonl };  // a .txt file is one document; a .jsonl file holds one in each line
enum class Compression { kNone, kGzip, kZstd };

struct InputFile {
  std::filesystem::path path;
  Format format = Format::kText;
  Compression compression = Compression::kNone;
  uint64_t size = 0;  // on the disk; 0 when it cannot be read, which the scan then reports
  int64_t mtime_ns = 0;
  std::string domain;  // where a document names none
};

// The lines that start in [begin, end) of a .jsonl file, or a whole file.
struct Slice {
  int file = 0;
  uint64_t begin = 0, end = 0;
};

struct Unit {
  std::vector<Slice> slices;
  uint64_t bytes = 0;  // of input on the disk
};

struct Inputs {
  std::vector<InputFile> files;  // in the order of the command line; inside a folder by path
  std::vector<Unit> units;
  uint64_t bytes = 0;
  int64_t ignored = 0;  // files of folders with other endings
};

// The domain of a .jsonl file is its stem (web.jsonl.gz: "web"). That of a .txt file is the first folder
// below the given folder, the given folder's own name when it lies directly in it, or its stem when the file
// itself was given. Throws Error(kData) for a name that does not exist, and Error(kUsage) for a given file
// with another ending.
Inputs find_inputs(const std::vector<std::filesystem::path>& names, uint64_t unit_bytes);

}  // namespace cadre::data
