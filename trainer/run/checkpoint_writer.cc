#include "trainer/run/checkpoint_writer.h"

#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;

std::string rank_file(int rank) {
  return fmt::format("rank-{:05}.bin", rank);
}

void make_private_folder(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (!code) fs::permissions(path, fs::perms::owner_all, code);
  require(!code, ExitCode::kCheckpoint, "cannot create {}: {}", path.string(), code.message());
}

size_t bytes_of(const std::vector<Slice>& slices) {
  size_t sum = 0;
  for (const Slice& slice : slices) sum += size_t(slice.count) * element_bytes(slice.dtype);
  return sum;
}

const std::string* first_problem(const std::vector<std::string>& problems) {
  for (const std::string& problem : problems) {
    if (!problem.empty()) return &problem;
  }
  return nullptr;
}

}  // namespace

CheckpointWriter::CheckpointWriter(fs::path folder, TrainState& state)
    : folder_(std::move(folder)), state_(state), snapshot_(device::make_snapshot(state.model.queue.kind())) {
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
  if (state_.config().checkpoint.every > 0) snapshot_->reserve(bytes_of(owned_slices(state_)));
  state_.before_update = [this] { snapshot_->hold(state_.model.queue); };
}

CheckpointWriter::~CheckpointWriter() {
  state_.before_update = nullptr;
  if (thread_.joinable()) thread_.join();
}

fs::path CheckpointWriter::temporary() const {
  return folder_ / (".tmp-" + checkpoint_name(index_.step));
}

void CheckpointWriter::start() {
  assert(!under_way_);
  if (thread_.joinable()) thread_.join();  // which removes what is old
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
  const comm::Communicator& data = state_.model.mesh.data();
  const std::string file = rank_file(data.rank());
  const std::vector<Slice> slices = owned_slices(state_);
  const size_t size = bytes_of(slices);
  std::byte* memory = snapshot_->begin(state_.model.queue, size);
  bytes_ = {memory, size};
  size_t at = 0;
  for (const Slice& slice : slices) {
    TensorInfo& tensor = index_.tensors[slice.tensor];
    tensor.dtype = slice.dtype;
    tensor.shape = slice.shape;
    tensor.axis = slice.axis;
    tensor.parts = slice.parts;
    tensor.pieces.push_back({file, at, slice.begin, slice.count});
    const size_t bytes = size_t(slice.count) * element_bytes(slice.dtype);
    snapshot_->copy(slice.data, memory + at, bytes);
    at += bytes;
  }
  snapshot_->end();
}

void CheckpointWriter::write_snapshot() {
  const std::string file = rank_file(state_.model.mesh.data().rank());
  try {
    snapshot_->wait();
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
    const auto parts = data.gather_texts(part_json(index_), "checkpoint index");
    result.error = data.gather_texts(data.rank() == 0 ? commit(parts) : "", "checkpoint in place").front();
  }
  std::error_code ignored;
  if (!result.error.empty() && data.rank() == 0) fs::remove_all(temporary(), ignored);
  if (result.error.empty()) last_saved_ = result.step;
  if (result.error.empty() && data.rank() == 0) remove_old();
  return result;
}

// Large files take long to go.
void CheckpointWriter::remove_old() {
  const auto remove = [folder = folder_, keep = state_.config().checkpoint.keep] {
    try {
      remove_old_checkpoints(folder, keep);
    } catch (const std::exception& error) {
      spdlog::warn("older checkpoints could not be removed: {}", error.what());
    }
  };
  if (!state_.config().checkpoint.async) return remove();
  thread_ = std::thread(remove);
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
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace cadre::trainer
