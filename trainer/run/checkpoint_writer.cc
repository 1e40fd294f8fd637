#include "trainer/run/checkpoint_writer.h"

#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using device::Group;

std::string rank_file(int rank) {
  return fmt::format("rank-{:05}.bin", rank);
}

void make_private_folder(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (!code) fs::permissions(path, fs::perms::owner_all, code);
  require(!code, ExitCode::kCheckpoint, "cannot create {}: {}", path.string(), code.message());
}

const std::string* first_problem(const std::vector<std::string>& problems) {
  for (const std::string& problem : problems) {
    if (!problem.empty()) return &problem;
  }
  return nullptr;
}

}  // namespace

CheckpointWriter::CheckpointWriter(fs::path folder, TrainState& state)
    : folder_(std::move(folder)), state_(state) {
  comm::Communicator& data = state_.model.mesh.data();
  std::string error;
  if (data.rank() == 0) {
    try {
      make_private_folder(folder_);
      remove_temporaries(folder_);
    } catch (const Error& e) {
      error = e.what();
    }
  }
  data.agree(error, ExitCode::kCheckpoint, "make the checkpoint folder");
}

CheckpointWriter::~CheckpointWriter() {
  if (thread_.joinable()) thread_.join();
}

fs::path CheckpointWriter::temporary() const {
  return folder_ / (".tmp-" + checkpoint_name(index_.step));
}

void CheckpointWriter::start() {
  assert(!under_way_);
  take_snapshot();
  comm::Communicator& data = state_.model.mesh.data();
  std::string error;
  if (data.rank() == 0) {
    try {
      make_private_folder(temporary());
    } catch (const Error& e) {
      error = e.what();
    }
  }
  const auto problems = data.gather_texts(error, "make a checkpoint's folder");
  error_ = problems.front();
  under_way_ = true;
  if (!error_.empty()) return;
  busy_ = true;
  if (!state_.config().checkpoint.async) return write_snapshot();
  thread_ = std::thread([this] { write_snapshot(); });
}

void CheckpointWriter::take_snapshot() {
  index_ = describe(state_);
  rollouts_ = state_.rollouts ? state_.rollouts->save() : "";
  bytes_.clear();
  const comm::Communicator& data = state_.model.mesh.data();
  const std::string file = rank_file(data.rank());
  const std::vector<Slice> slices = owned_slices(state_);
  size_t at = 0;
  for (const Slice& slice : slices) at += size_t(slice.count) * element_bytes(slice.dtype);
  bytes_.resize(at);  // before the copies, which end with the wait
  at = 0;
  for (const Slice& slice : slices) {
    TensorInfo& tensor = index_.tensors[slice.tensor];
    tensor.dtype = slice.dtype;
    tensor.shape = slice.shape;
    tensor.pieces.push_back({file, at, slice.begin, slice.count});
    const size_t bytes = size_t(slice.count) * element_bytes(slice.dtype);
    state_.model.queue.download(slice.data, bytes_.data() + at, bytes);
    at += bytes;
  }
  state_.model.queue.wait();
}

void CheckpointWriter::write_snapshot() {
  const std::string file = rank_file(state_.model.mesh.data().rank());
  try {
    base::FileWriter writer(temporary() / file, ExitCode::kCheckpoint);
    writer.write(bytes_);
    writer.close();
    index_.files[file] = {writer.bytes(), writer.sha256()};
  } catch (const std::exception& error) {
    error_ = error.what();
  }
  busy_ = false;
}

SaveResult CheckpointWriter::finish() {
  assert(under_way_);
  if (thread_.joinable()) thread_.join();
  under_way_ = false;
  comm::Communicator& data = state_.model.mesh.data();
  SaveResult result{.step = index_.step, .error = ""};
  const auto problems = data.gather_texts(error_, "checkpoint files");
  if (const std::string* problem = first_problem(problems)) {
    result.error = *problem;
  } else {
    // Tensors and the file of this rank; rank 0 puts them together.
    const auto parts = data.gather_texts(to_json(index_), "checkpoint index");
    result.error = data.gather_texts(data.rank() == 0 ? commit(parts) : "", "checkpoint in place").front();
  }
  std::error_code ignored;
  if (!result.error.empty() && data.rank() == 0) fs::remove_all(temporary(), ignored);
  if (result.error.empty()) last_saved_ = result.step;
  return result;
}

std::string CheckpointWriter::commit(const std::vector<std::string>& parts) {
  try {
    for (size_t rank = 1; rank < parts.size(); ++rank) merge_part(index_, parts[rank]);
    const fs::path tokenizer = state_.dataset.tokenizer_file;
    if (!tokenizer.empty()) {
      index_.tokenizer = tokenizer.filename().string();
      base::FileWriter copy(temporary() / index_.tokenizer, ExitCode::kCheckpoint);
      copy.write(base::read_file(tokenizer, ExitCode::kData));
      copy.close();
      index_.files[index_.tokenizer] = {copy.bytes(), copy.sha256()};
    }
    if (!rollouts_.empty()) {
      base::FileWriter file(temporary() / kRolloutFile, ExitCode::kCheckpoint);
      file.write(rollouts_);
      file.close();
      index_.files[kRolloutFile] = {file.bytes(), file.sha256()};
    }
    write_index(index_, temporary());
    const fs::path final = folder_ / checkpoint_name(index_.step);
    if (fs::exists(final)) fs::remove_all(final);  // a damaged one that the resumed run passed over
    base::rename_durably(temporary(), final, ExitCode::kCheckpoint);
    remove_old_checkpoints(folder_, state_.config().checkpoint.keep);
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace cadre::trainer
