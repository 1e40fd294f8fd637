#include "trainer/run/checkpoint.h"

#include <algorithm>

#include "parallel/base/files.h"
#include "parallel/base/json_whole.h"
#include "parallel/base/log.h"
#include "parallel/device/transfer.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/run_record.h"

namespace cadre::trainer {
namespace {

using device::Group;
using nlohmann::json;

std::string state_tensor(const std::string& state, const std::string& row) {
  return fmt::format("optimizer.{}.{}", state, row);
}

std::string reference_tensor(const std::string& row) {
  return "reference." + row;
}

std::string optimizer_name(const RunConfig& config) {
  return kind(config, config.optim, "optim").text("name", "adamw");
}

// The averaged gradients of influence targets, in the optimizer's slices.
template <class Body>
void for_each_target_gradient(TrainState& state, const Body& body) {
  if (!state.probe || !state.probe->has_gradients()) return;
  for (size_t target = 0; target < state.probe->targets().size(); ++target) {
    for (int g = 0; g < device::kNumGroups; ++g) {
      for (const comm::Piece& piece : state.optimizer_context.pieces[g]) {
        const device::ParamRow& row = state.model.table.row(piece.row);
        body(fmt::format("influence.{}.{}", state.probe->targets()[target], row.name), row, piece,
             state.probe->gradient(target, Group(g)).rows(piece.state_offset, piece.count));
      }
    }
  }
}

// Calls body(tensor name, row, piece, view of the rank's memory, in Real or bf16) for every optimizer state of every piece, and for
// whatever else lies in the optimizer's slices.
template <class Body>
void for_each_state(TrainState& state, const Body& body) {
  for_each_target_gradient(state, body);
  for (int g = 0; g < device::kNumGroups; ++g) {
    for (const std::string& name : state.optimizer->state_names()) {
      const auto memory = state.optimizer->state(name, Group(g));
      const auto narrow = state.optimizer->narrow_state(name, Group(g));
      for (const comm::Piece& piece : state.optimizer_context.pieces[g]) {
        const device::ParamRow& row = state.model.table.row(piece.row);
        if (!state.optimizer->has_state(name, row)) continue;
        const std::string tensor = state_tensor(name, row.name);
        if (narrow.empty()) {
          body(tensor, row, piece, memory.rows(piece.state_offset, piece.count));
        } else {
          body(tensor, row, piece, narrow.rows(piece.state_offset, piece.count));
        }
      }
    }
  }
}

// How a run comes to a checkpoint: its own, to go on with, or the one that it starts from.
struct Origin {
  std::string folder;
  const char* advice;
  bool rope_is_free;
};

// Whatever the order of their keys and the style of their maps.
bool same_value(const YAML::Node& a, const YAML::Node& b) {
  if (a.IsMap() != b.IsMap() || a.IsSequence() != b.IsSequence()) return false;
  if (!a.IsMap() && !a.IsSequence()) return YAML::Dump(a) == YAML::Dump(b);
  if (a.size() != b.size()) return false;
  for (size_t i = 0; a.IsSequence() && i < a.size(); ++i)
    if (!same_value(a[i], b[i])) return false;
  if (a.IsSequence()) return true;
  return std::all_of(a.begin(), a.end(), [&](const auto& entry) {
    const YAML::Node other = b[entry.first.Scalar()];
    return other.IsDefined() && same_value(entry.second, other);
  });
}
std::string in_one_line(const YAML::Node& node) {
  YAML::Node copy = YAML::Clone(node);
  if (copy.IsMap() || copy.IsSequence()) copy.SetStyle(YAML::EmitterStyle::Flow);
  return YAML::Dump(copy);
}

// Keys of `model` and `moe` that a checkpoint cannot change, with the checkpoint's values where they differ.
void require_same_model(const RunConfig& config, const CheckpointIndex& index, const Origin& origin) {
  // Read and written out again, so that a key which an older build did not have compares by its default.
  const RunConfig saved_run = read_run(base::parse_run_text(index.config, "the checkpoint's run file", {}));
  const YAML::Node ours = YAML::Load(resolved_yaml(config)), theirs = YAML::Load(resolved_yaml(saved_run));
  const std::map<std::string, std::vector<std::string>> free = {
      {"model", {"init_std", origin.rope_is_free ? "rope" : "init_std"}},
      {"moe", {"balance", "z_loss", "capacity_factor", "drop", "dispatch", "shares", "rebalance"}}};
  for (const auto& [section, ignored] : free) {
    const YAML::Node a = ours[section], b = theirs[section];
    require(a.IsDefined() == b.IsDefined(), ExitCode::kUsage,
            "{}: the run file {} a {} section, that of the checkpoint in {} {}. {}", config.source,
            a ? "has" : "has no", section, origin.folder, b ? "has one" : "has none", origin.advice);
    if (!a) continue;
    for (const auto& entry : a) {
      const std::string key = entry.first.Scalar();
      if (same_value(a[key], b[key])) continue;
      const std::string mine = in_one_line(a[key]), saved = in_one_line(b[key]);
      if (std::find(ignored.begin(), ignored.end(), key) == ignored.end()) {
        fail(ExitCode::kUsage, "{}: {}.{} is {}, but the checkpoint in {} was made with {}. {}",
             config.source, section, key, mine, origin.folder, saved, origin.advice);
      }
      spdlog::warn("{}.{} changes from {} to {}", section, key, saved, mine);
    }
  }
}

void require_same_optimizer(const TrainState& state, const json& saved) {
  const std::string name = saved.at("name").get<std::string>();
  require(name == optimizer_name(state.config()), ExitCode::kUsage,
          "{}: optim.name is {}, but the checkpoint in {} was trained with {}. Give another `out`, or the "
          "old value",
          state.config().source, optimizer_name(state.config()), state.config().out, name);
}

void restore_progress(TrainState& state, const json& saved) {
  const auto count = [&](const char* key) {
    return base::whole<int64_t>(saved.at(key), ExitCode::kCheckpoint);
  };
  state.progress.step = uint64_t(count("step"));
  state.progress.tokens = uint64_t(count("tokens"));
  state.counters.skips_in_row = count("skips_in_row");
  state.counters.skipped_steps = count("skipped_steps");
  state.counters.train_seconds = saved.at("train_seconds").get<double>();
  state.counters.evaluated = state.progress.step;  // older builds do not say
  if (saved.contains("evaluated")) {
    state.counters.evaluated.reset();
    if (!saved.at("evaluated").is_null()) state.counters.evaluated = uint64_t(count("evaluated"));
  }
  // Steps that max_minutes has cut stay cut; else the run file may lengthen a run.
  if (state.config().train.max_minutes > 0 && saved.at("total_fixed").get<bool>()) {
    state.counters.total_fixed = true;
    state.progress.total_steps = uint64_t(count("total_steps"));
  }
}

// A run that begins to measure influence later starts without averages; one that stops forgets them.
void restore_probe(TrainState& state, const json& saved) {
  if (!state.probe) return;
  saved.is_null() ? state.probe->forget() : state.probe->load(saved);
}

}  // namespace

namespace {

// In the type that the device keeps.
template <class T>
Slice make_slice(std::string tensor, const device::ParamLayout& layout, const comm::Piece& piece,
                 device::View<T, 1> data) {
  const device::ParamRow& row = layout.table().row(piece.row);
  return {.tensor = std::move(tensor),
          .shape = row.shape,
          .axis = row.split_axis,
          .parts = layout.order(piece.row).parts(),
          .begin = layout.at(piece.row).global_begin + piece.row_begin,
          .data = data.data(),
          .count = data.size(),
          .dtype = std::is_same_v<T, Real> ? kFloat32 : kBfloat16};
}

Slice reference_slice(const ModelState& reference, const device::ParamRow& row, const comm::Piece& piece) {
  const auto narrow = reference.store.narrow_values(row.group);
  const std::string tensor = reference_tensor(row.name);
  if (narrow.empty()) {
    return make_slice(tensor, reference.layout, piece,
                      reference.store.values(row.group).rows(piece.group_offset, piece.count));
  }
  return make_slice(tensor, reference.layout, piece, narrow.rows(piece.group_offset, piece.count));
}

}  // namespace

std::vector<Slice> owned_slices(TrainState& state) {
  std::vector<Slice> slices;
  const device::ParamLayout& layout = state.model.layout;
  for (int g = 0; g < device::kNumGroups; ++g) {
    if (!state.optimizer_context.in_norm[g]) continue;  // another rank saves the same elements
    for (const comm::Piece& piece : state.optimizer_context.pieces[g]) {
      const device::ParamRow& row = state.model.table.row(piece.row);
      const auto values = state.model.store.own_masters(Group(g), piece.range());
      slices.push_back(make_slice(row.name, layout, piece, values));
      if (state.reference) slices.push_back(reference_slice(*state.reference, row, piece));
    }
  }
  for_each_state(state, [&](const std::string& tensor, const device::ParamRow& row, const comm::Piece& piece,
                            const auto& data) {
    if (!state.optimizer_context.in_norm[int(row.group)]) return;
    slices.push_back(make_slice(tensor, layout, piece, data));
  });
  return slices;
}

CheckpointIndex describe(const TrainState& state) {
  CheckpointIndex index;
  index.step = state.progress.step;
  index.config = resolved_yaml(state.config());
  index.manifest_hash = state.dataset.manifest_hash;
  index.run = run_record(state);
  index.state = {
      {"progress",
       {{"step", state.progress.step},
        {"tokens", state.progress.tokens},
        {"total_steps", state.progress.total_steps},
        {"total_fixed", state.counters.total_fixed},
        {"skips_in_row", state.counters.skips_in_row},
        {"skipped_steps", state.counters.skipped_steps},
        {"train_seconds", state.counters.train_seconds},
        {"evaluated", state.counters.evaluated ? json(*state.counters.evaluated) : json()}}},
      {"optimizer", {{"name", optimizer_name(state.config())}, {"updates", state.optimizer->updates()}}},
      {"feed", state.feed.save()},
      {"spikes", state.spikes.save()},
      {"expert_loads", state.rebalance.save()},
      {"influence", state.probe ? state.probe->save() : json()},
      {"model", state.model.decoder.save_state()}};
  if (state.reference) index.state["reference"] = state.reference->decoder.save_state();
  return index;
}

namespace {

// The values, under the names that `tensor` makes of the parameters'.
void restore_values(ModelState& model, TensorReader& reader, std::string (*tensor)(const std::string&)) {
  for (int id = 0; id < int(model.table.rows().size()); ++id) {
    const device::ParamRow& row = model.table.row(id);
    const device::Placement& place = model.layout.at(id);
    std::vector<Real> values(size_t(place.count));
    reader.read(tensor(row.name), row.shape, model.layout.order(id), place.global_begin, values);
    model.store.set(model.queue, place.group, place.offset, values);
  }
}

// Values and balancing state.
void restore_both(ModelState& model, TensorReader& reader, const char* state,
                  std::string (*tensor)(const std::string&)) {
  restore_values(model, reader, tensor);
  model.decoder.load_state(reader.index().state.at(state).get<moe::StateDict>());
}

// The optimizer's, and what else lies in its slices.
void restore_states(TrainState& state, TensorReader& reader) {
  for_each_state(state, [&](const std::string& tensor, const device::ParamRow& row, const comm::Piece& piece,
                            const auto& data) {
    std::vector<Real> values(size_t(data.size()));
    const device::ParamLayout& layout = state.model.layout;
    reader.read(tensor, row.shape, layout.order(piece.row),
                layout.at(piece.row).global_begin + piece.row_begin, values);
    using Element = std::remove_reference_t<decltype(data[0])>;
    const std::vector<Element> stored(values.begin(), values.end());
    device::upload(state.model.queue, stored, data);
  });
  state.optimizer->set_updates(
      base::whole<int64_t>(reader.index().state.at("optimizer").at("updates"), ExitCode::kCheckpoint));
  state.optimizer->restore_values();
  // Those that a rank made again from its own masters are new to the others.
  for (int bucket = 0; bucket < state.model.table.num_buckets(); ++bucket)
    state.reducer.gather_values(bucket);
  state.reducer.finish_values();
}

std::string own_tensor(const std::string& row) {
  return row;
}

}  // namespace

void restore_model(ModelState& model, TensorReader& reader) {
  restore_both(model, reader, "model", own_tensor);
}

void start_from(ModelState& model, TensorReader& reader, const std::string& folder) {
  const CheckpointIndex& index = reader.index();
  require_same_model(
      model.config, index,
      {folder, "Leave the key out to take the checkpoint's value, or give another `init`", true});
  try {
    restore_values(model, reader, own_tensor);
    moe::StateDict state = model.decoder.save_state();
    for (const auto& [name, values] : index.state.at("model").get<moe::StateDict>()) {
      const auto ours = state.find(name);
      if (ours != state.end() && ours->second.size() == values.size()) ours->second = values;
    }
    model.decoder.load_state(state);
  } catch (const json::exception& error) {
    fail(ExitCode::kCheckpoint, "{}: its state cannot be read: {}", folder, error.what());
  }
}

void restore_optimizer(TrainState& state, TensorReader& reader) {
  const CheckpointIndex& index = reader.index();
  try {
    const json saved = index.state.value("optimizer", json());
    if (!saved.is_object()) return;
    require_same_optimizer(state, saved);
    restore_states(state, reader);
  } catch (const json::exception& error) {
    fail(ExitCode::kCheckpoint, "{}: its state cannot be read: {}", checkpoint_name(index.step),
         error.what());
  }
}

void restore(TrainState& state, TensorReader& reader) {
  const CheckpointIndex& index = reader.index();
  try {
    require_same_model(state.config(), index,
                       {state.config().out, "Give another `out`, or the old run file's value", false});
    require_same_optimizer(state, index.state.at("optimizer"));
    state.reducer.finish_values();
    restore_model(state.model, reader);
    if (state.reference) restore_both(*state.reference, reader, "reference", reference_tensor);
    restore_probe(state, index.state.value("influence", json()));
    restore_states(state, reader);
    restore_progress(state, index.state.at("progress"));
    state.rebalance.load(index.state.value("expert_loads", json()));
    state.feed.load(index.state.at("feed"));
    if (state.rollouts) {
      require(index.files.count(kRolloutFile) > 0, ExitCode::kCheckpoint,
              "{}: it was saved by a run that does not sample; give another `out`, and this one as `init`",
              reader.folder().string());
      state.rollouts->load(base::read_file(reader.folder() / kRolloutFile, ExitCode::kCheckpoint));
    }
    // Checkpoints from before there was a detector have no history for it.
    if (index.state.contains("spikes")) state.spikes.load(index.state.at("spikes"));
  } catch (const json::exception& error) {
    fail(ExitCode::kCheckpoint, "{}: its state cannot be read: {}", checkpoint_name(index.step),
         error.what());
  }
  if (state.model.mesh.data().rank() != 0) return;
  warn_of_other_bits(run_record(state), index.run);
  if (index.manifest_hash != state.dataset.manifest_hash) {
    spdlog::warn("the data's manifest differs from the one that the checkpoint was trained on");
  }
}

RunConfig checkpoint_config(const CheckpointIndex& index, const std::filesystem::path& folder) {
  return read_run(base::parse_run_text(index.config, (folder / kIndexFile).string(), {}));
}

}  // namespace cadre::trainer
