// The documents of a work unit, in order, with the memory of one document at a time. Scan and encode both
// read through this, so that both see the same documents.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "data/prepare/inputs.h"
#include "data/prepare/report.h"

namespace cadre::data {

struct ReadOptions {
  std::string text_field, domain_field, id_field;
  int64_t min_chars = 1, max_chars = 0;
  uint64_t max_bytes = 0;  // of one document
};

// Views are good until the call returns.
struct Document {
  std::string_view text, domain;
};

class DocumentSink {
 public:
  virtual ~DocumentSink() = default;
  virtual void document(const Document& document) = 0;  // has passed the length filters
  // `line` counts from 1 from the slice's first line on; 0 for a whole file.
  virtual void problem(InputProblem problem, int slice, int64_t line, std::string_view id,
                       std::string detail) = 0;
  // A slice was read: how many lines started in it.
  virtual void slice_done(int slice, int64_t lines) = 0;
};

// `progress` is told the bytes taken from the disk since it was last called.
void read_unit(const Inputs& inputs, const Unit& unit, const ReadOptions& options,
               const std::function<void(uint64_t)>& progress, DocumentSink& sink);

}  // namespace cadre::data
