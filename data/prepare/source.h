// Byte streams of input files, decompressed on the fly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "data/prepare/inputs.h"

namespace cadre::data {

// A file that cannot be read (on), with the reason. Caught where the problem is counted; never leaves
// prepare.
class SourceError : public std::runtime_error {
 public:
  enum class Kind {
    kUnreadable,
    kDamaged
  };  // damaged: a compressed file that ends early or is not what it says
  SourceError(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

class Source {
 public:
  virtual ~Source() = default;
  // Fills as much of `out` as there is; 0 at the end. Throws SourceError.
  virtual size_t read(std::span<char> out) = 0;
  virtual uint64_t consumed() const = 0;  // bytes taken from the disk so far
};

// `offset` only for files that are not compressed. Throws SourceError.
std::unique_ptr<Source> open_source(const InputFile& file, uint64_t offset);

}  // namespace cadre::data
