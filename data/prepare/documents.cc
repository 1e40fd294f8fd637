#include "data/prepare/documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <vector>

#include "data/prepare/json_line.h"
#include "data/prepare/source.h"
#include "data/tokenizers/utf8.h"

namespace cadre::data {
namespace {

constexpr size_t kBlock = size_t(1) << 20;

// Documents above this size are held by one worker of a process at a time, so that memory is bounded by
// threads * small + one large, not by threads * large.
constexpr size_t kLarge = size_t(4) << 20;
std::unique_lock<std::mutex> take_turn() {
  static std::mutex turn;
  return std::unique_lock(turn);
}

// Input bytes in a growing buffer.
class Reader {
 public:
  Reader(Source& source, const std::function<void(uint64_t)>& progress)
      : source_(source), progress_(progress), buffer_(kBlock) {}

  // Appends to the unread bytes; false at the end. The views given out before are no longer good.
  bool more() {
    if (begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    if (end_ == buffer_.size()) {
      if (buffer_.size() >= kLarge && !turn_.owns_lock()) turn_ = take_turn();
      buffer_.resize(buffer_.size() * 2);
    }
    const size_t n = source_.read(std::span(buffer_).subspan(end_));
    end_ += n;
    progress_(source_.consumed() - told_);
    told_ = source_.consumed();
    return n > 0;
  }
  std::string_view unread() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void skip(size_t bytes) { begin_ += bytes; }
  // After a large document: gives its memory and the turn back.
  void shrink() {
    if (buffer_.size() <= kLarge || end_ - begin_ > kBlock) return;
    const std::string_view rest = unread();
    std::vector<char> small(kBlock);
    std::copy(rest.begin(), rest.end(), small.begin());
    end_ = rest.size();
    begin_ = 0;
    buffer_ = std::move(small);
    if (turn_.owns_lock()) turn_.unlock();
  }

 private:
  Source& source_;
  const std::function<void(uint64_t)>& progress_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;
  uint64_t told_ = 0;
  std::unique_lock<std::mutex> turn_;
};

// Unicode characters, counting invalid bytes generously: bytes that do not continue a character.
int64_t count_chars(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
}

class UnitReader {
 public:
  UnitReader(const Inputs& inputs, const ReadOptions& options, const std::function<void(uint64_t)>& progress,
             DocumentSink& sink)
      : inputs_(inputs), options_(options), progress_(progress), sink_(sink) {
    fields_.text.name = options.text_field;
    fields_.domain.name = options.domain_field;
    fields_.id.name = options.id_field;
  }

  void read(const Slice& slice, int index) {
    slice_ = index;
    line_ = 0;
    file_ = &inputs_.files[slice.file];
    const bool jsonl = file_->format == Format::kJsonl;
    try {
      // One byte earlier shows whether a line starts at `begin`.
      const auto source = open_source(*file_, slice.begin > 0 ? slice.begin - 1 : 0);
      Reader reader(*source, progress_);
      if (jsonl) {
        read_lines(reader, slice);
      } else {
        read_whole(reader);
      }
    } catch (const SourceError& error) {
      const bool damaged = error.kind() == SourceError::Kind::kDamaged;
      report(damaged ? InputProblem::kDamagedArchive : InputProblem::kUnreadableFile, error.what());
    }
    sink_.slice_done(index, line_);
  }

 private:
  void report(InputProblem problem, std::string detail) {
    const bool has_id =
        fields_.id.type != JsonField::Type::kAbsent && fields_.id.type != JsonField::Type::kOther;
    sink_.problem(problem, slice_, line_, has_id ? std::string_view(fields_.id.value) : std::string_view(),
                  std::move(detail));
  }

  void too_many_bytes() {
    report(InputProblem::kTooLong,
           fmt::format("more than {} bytes, the limit for this --memory", options_.max_bytes));
  }

  void read_whole(Reader& reader) {
    while (reader.unread().size() <= options_.max_bytes && reader.more()) {
    }
    if (reader.unread().size() > options_.max_bytes) {
      too_many_bytes();
    } else {
      give(reader.unread(), file_->domain);
    }
  }

  // Skips the rest of a line that started before the slice; the position of the first line that starts in it.
  // Looks no further than the slice's end: a line of many slices must not be read many times.
  static uint64_t skip_to_line(Reader& reader, const Slice& slice) {
    uint64_t position = slice.begin - 1;
    do {
      const std::string_view unread = reader.unread();
      const size_t newline = unread.find('\n');
      const size_t size = newline == std::string_view::npos ? unread.size() : newline + 1;
      reader.skip(size);
      position += size;
      if (newline != std::string_view::npos) return position;
    } while (position < slice.end && reader.more());
    return slice.end;
  }

  void read_lines(Reader& reader, const Slice& slice) {
    uint64_t position = slice.begin > 0 ? skip_to_line(reader, slice) : 0;
    // A compressed file is one slice; its positions are not those of the text.
    const uint64_t end =
        file_->compression == Compression::kNone ? slice.end : std::numeric_limits<uint64_t>::max();
    while (position < end) {
      std::string_view line;
      ++line_;
      const uint64_t size = next_line(reader, line);
      if (size == 0) {
        --line_;
        break;
      }
      if (line.data() == nullptr) {
        fields_.id.type = JsonField::Type::kAbsent;
        too_many_bytes();
      } else {
        take_line(line, position == 0);
      }
      position += size;
      reader.skip(line.data() == nullptr ? 0 : size);
      if (fields_.text.value.capacity() > kLarge) std::string().swap(fields_.text.value);
      reader.shrink();
    }
  }

  // Bytes up to and including the next newline; 0 at the end of the file. Leaves them unread and shows them
  // in `line`, or skips them and leaves `line` null when they are too many. A damaged archive throws here, so
  // that its last line, which may have lost its end, is never shown.
  uint64_t next_line(Reader& reader, std::string_view& line) {
    const uint64_t limit = 2 * options_.max_bytes + 4096;  // escapes make lines longer than their texts
    uint64_t skipped = 0;
    size_t searched = 0;
    for (;;) {
      const std::string_view unread = reader.unread();
      const size_t newline = unread.find('\n', searched);
      const bool found = newline != std::string_view::npos;
      size_t size = found ? newline + 1 : unread.size();
      if (skipped > 0 || size > limit) {
        reader.skip(size);
        skipped += size;
        if (found) return skipped;
        size = 0;
      } else if (found) {
        line = unread.substr(0, size);
        return size;
      }
      searched = size;
      if (!reader.more()) {
        if (skipped == 0 && searched > 0) line = reader.unread();
        return skipped + searched;
      }
    }
  }

  void take_line(std::string_view line, bool first_of_file) {
    if (first_of_file && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);  // a byte order mark
    if (line.find_first_not_of(" \t\r\n") == std::string_view::npos) return;       // no document, no problem
    const std::string error = parse_json_line(line, fields_);
    if (!error.empty()) {
      fields_.id.type = JsonField::Type::kAbsent;
      report(InputProblem::kBrokenJson, error);
    } else if (fields_.text.type != JsonField::Type::kString) {
      const bool absent = fields_.text.type == JsonField::Type::kAbsent;
      report(InputProblem::kNoText,
             absent ? fmt::format("no field '{}'; name the right one with --text-field", options_.text_field)
                    : fmt::format("field '{}' is not a string", options_.text_field));
    } else {
      const bool named =
          fields_.domain.type == JsonField::Type::kString || fields_.domain.type == JsonField::Type::kScalar;
      give(fields_.text.value, named && !fields_.domain.value.empty() ? fields_.domain.value : file_->domain);
    }
  }

  void give(std::string_view text, std::string_view domain) {
    if (text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos)
      return report(InputProblem::kEmpty, "");
    if (text.size() > options_.max_bytes) return too_many_bytes();
    if (options_.min_chars > 1 || options_.max_chars > 0) {
      const int64_t chars = count_chars(text);
      if (chars < options_.min_chars)
        return report(InputProblem::kTooShort, fmt::format("{} characters", chars));
      if (options_.max_chars > 0 && chars > options_.max_chars) {
        return report(InputProblem::kTooLong, fmt::format("{} characters", chars));
      }
    }
    if (const size_t bad = find_invalid_utf8(text); bad < text.size()) {
      report(InputProblem::kInvalidUtf8,
             fmt::format("byte {} of the text is 0x{:02x}", bad + 1, static_cast<uint8_t>(text[bad])));
    }
    sink_.document({text, domain});
  }

  const Inputs& inputs_;
  const ReadOptions& options_;
  const std::function<void(uint64_t)>& progress_;
  DocumentSink& sink_;
  const InputFile* file_ = nullptr;
  LineFields fields_;
  int slice_ = 0;
  int64_t line_ = 0;
};

}  // namespace

void read_unit(const Inputs& inputs, const Unit& unit, const ReadOptions& options,
               const std::function<void(uint64_t)>& progress, DocumentSink& sink) {
  UnitReader reader(inputs, options, progress, sink);
  for (size_t i = 0; i < unit.slices.size(); ++i) reader.read(unit.slices[i], static_cast<int>(i));
}

}  // namespace cadre::data
