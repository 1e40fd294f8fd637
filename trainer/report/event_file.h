// TensorBoard event files: TFRecord frames (length and data, each with a masked CRC-32C) around the protobuf message
// tensorflow.Event, of which only the few fields below are needed, so they are encoded by hand.
//   Event        1 wall_time (double)  2 step (int64)  3 file_version  5 summary  7 session_log
//   Summary      1 value*              Value: 1 tag, 2 simple_value (float)
//   SessionLog   1 status (START = 1): TensorBoard drops what an earlier process wrote for this step and later ones
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "parallel/base/files.h"
#include "trainer/report/sink.h"

namespace cadre::report {

uint32_t crc32c(std::string_view bytes);         // Castagnoli polynomial, as in RFC 3720, appendix B.4
uint32_t masked_crc32c(std::string_view bytes);  // rotated and shifted, so that a CRC of CRCs is not weak
// One frame: u64 length, its masked CRC, the data, their masked CRC; little endian.
std::string tf_record(std::string_view data);

// Writes train and eval lines as scalars: "train/loss", "train/domain_loss/alpha", "eval/eval_bpb/alpha".
class EventFile : public MetricSink {
 public:
  // A new file in `folder`, whose name sorts after the ones before. `first_step`: the next step that this process takes.
  // Throws Error(kCheckpoint) when it cannot be made.
  EventFile(const std::filesystem::path& folder, uint64_t first_step);
  void line(const nlohmann::json& line) override;
  void rewind(uint64_t step) override;

 private:
  void open(uint64_t first_step);
  void write(uint64_t step, const std::string& record);
  std::filesystem::path folder_;
  std::unique_ptr<base::FileWriter> file_;  // null after a failed write, until a new one can be begun
  bool told_ = false;                       // of the failure
};

}  // namespace cadre::report
