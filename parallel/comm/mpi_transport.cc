// Ranks as processes, through MPI's non-blocking collectives. Waiting is a loop of our own around MPI_Test,
// because MPI has no timeouts: a rank that hangs must end as one line that names the collective.
#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <ctime>
#include <exception>
#include <limits>
#include <numeric>

#include "parallel/base/blackbox.h"
#include "parallel/comm/transports.h"

namespace cadre::comm {
namespace {

void check(int code, std::string_view label) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ExitCode::kComm, "{}: MPI failed: {}", label, text);
}

MPI_Datatype mpi_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kByte:
      return MPI_BYTE;
    case Dtype::kInt32:
      return MPI_INT32_T;
    case Dtype::kInt64:
      return MPI_INT64_T;
    case Dtype::kBf16:
      break;  // host memory holds none
    case Dtype::kFloat:
      return MPI_FLOAT;
    case Dtype::kDouble:
      return MPI_DOUBLE;
  }
  return MPI_DATATYPE_NULL;
}

// MPI 3 counts and offsets are 32 bits wide.
int narrow(int64_t count, std::string_view label) {
  require(count >= 0 && count <= std::numeric_limits<int>::max(), ExitCode::kComm,
          "{}: found a count or offset of {} elements; MPI takes up to {}, use smaller buckets or more ranks",
          label, count, std::numeric_limits<int>::max());
  return int(count);
}

std::vector<int> narrow(std::span<const int64_t> counts, std::string_view label) {
  std::vector<int> narrowed;
  for (int64_t count : counts) narrowed.push_back(narrow(count, label));
  return narrowed;
}

// Offsets relative to the lowest one, so that parts of a buffer of any size can be named.
struct Displacements {
  Displacements(std::span<const int64_t> displs, Dtype dtype, std::string_view label) {
    const int64_t base = *std::min_element(displs.begin(), displs.end());
    for (int64_t displ : displs) relative.push_back(narrow(displ - base, label));
    base_bytes = base * int64_t(size_of(dtype));
  }
  std::vector<int> relative;
  int64_t base_bytes;
};

// Counts must stay where they are until the collective is done.
struct Counts {
  std::vector<int> send, send_displs, receive, receive_displs;
};

// Spin while the answer is likely near, then let others run, then sleep: ranks may share cores.
class Backoff {
 public:
  std::chrono::steady_clock::duration pause() {
    using namespace std::chrono_literals;
    constexpr auto kSpin = 20us;
    constexpr auto kYield = 2ms;
    const auto waited = std::chrono::steady_clock::now() - start_;
    if (waited > kYield) {
      const timespec nap = {0, 50'000};
      nanosleep(&nap, nullptr);
    } else if (waited > kSpin) {
      sched_yield();
    }
    return waited;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class MpiRequest : public Request::State {
 public:
  MpiRequest(const Communicator& communicator, const char* verb, std::string_view label, uint64_t bytes)
      : communicator_(communicator),
        verb_(verb),
        label_(label),
        record_(base::collective_started(verb, label, bytes)) {}
  // MPI cannot cancel a collective: what it still reads is left to it. The process is about to end.
  ~MpiRequest() override {
    if (request != MPI_REQUEST_NULL) (void)counts.release();
  }

  bool test() override {
    const bool done = test_quietly();
    if (done) base::collective_done(record_, {});
    return done;
  }

  void wait() override {
    const auto start = std::chrono::steady_clock::now();
    Backoff backoff;
    while (!test_quietly()) {
      if (backoff.pause() < communicator_.timeout()) continue;
      fail(ExitCode::kComm,
           "{} '{}' on communicator '{}', rank {} of {}: not done within {} ms; a rank hangs or was lost",
           verb_, label_, communicator_.name(), communicator_.rank(), communicator_.size(),
           communicator_.timeout().count());
    }
    base::collective_done(record_, std::chrono::steady_clock::now() - start);
  }

  MPI_Request request = MPI_REQUEST_NULL;
  std::unique_ptr<Counts> counts = std::make_unique<Counts>();

 private:
  bool test_quietly() {
    int done = 0;
    check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), label_);
    return done != 0;
  }

  const Communicator& communicator_;  // outlives its requests
  const char* verb_;
  std::string label_;
  uint64_t record_;  // in this rank's box
};

const std::byte* at(const void* data, int64_t bytes) {
  return static_cast<const std::byte*>(data) + bytes;
}
std::byte* at(void* data, int64_t bytes) {
  return static_cast<std::byte*>(data) + bytes;
}

// That this rank sends.
uint64_t bytes_of(std::span<const int64_t> counts, Dtype dtype) {
  return uint64_t(std::accumulate(counts.begin(), counts.end(), int64_t(0))) * size_of(dtype);
}

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(std::string name, MPI_Comm comm) : Communicator(std::move(name)), comm_(comm) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  // Freeing is collective: while an exception flies, the other ranks will not come.
  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Request all_to_all(const void* send, std::span<const int64_t> send_counts,
                     std::span<const int64_t> send_displs, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override {
    if (imitation())
      return imitate_all_to_all(send, send_counts, send_displs, receive, receive_counts, receive_displs,
                                dtype),
             Request();
    auto call = std::make_unique<MpiRequest>(*this, "all_to_all", label, bytes_of(send_counts, dtype));
    Displacements from(send_displs, dtype, label), into(receive_displs, dtype, label);
    *call->counts = {narrow(send_counts, label), std::move(from.relative), narrow(receive_counts, label),
                     std::move(into.relative)};
    const Counts& c = *call->counts;
    check(MPI_Ialltoallv(at(send, from.base_bytes), c.send.data(), c.send_displs.data(), mpi_type(dtype),
                         at(receive, into.base_bytes), c.receive.data(), c.receive_displs.data(),
                         mpi_type(dtype), comm_, &call->request),
          label);
    return Request(std::move(call));
  }

  Request all_gather(const void* send, int64_t send_count, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override {
    if (imitation())
      return imitate_all_gather(send, send_count, receive, receive_counts, receive_displs, dtype), Request();
    auto call =
        std::make_unique<MpiRequest>(*this, "all_gather", label, uint64_t(send_count) * size_of(dtype));
    Displacements into(receive_displs, dtype, label);
    *call->counts = {{}, {}, narrow(receive_counts, label), std::move(into.relative)};
    const Counts& c = *call->counts;
    const bool in_place = send == at(receive, receive_displs[rank_] * int64_t(size_of(dtype)));
    check(MPI_Iallgatherv(in_place ? MPI_IN_PLACE : send, narrow(send_count, label), mpi_type(dtype),
                          at(receive, into.base_bytes), c.receive.data(), c.receive_displs.data(),
                          mpi_type(dtype), comm_, &call->request),
          label);
    return Request(std::move(call));
  }

  Request broadcast(void* data, int64_t count, int root, Dtype dtype, std::string_view label) override {
    if (imitation()) return {};
    auto call = std::make_unique<MpiRequest>(*this, "broadcast", label, uint64_t(count) * size_of(dtype));
    check(MPI_Ibcast(data, narrow(count, label), mpi_type(dtype), root, comm_, &call->request), label);
    return Request(std::move(call));
  }

 private:
  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
};

class MpiWorld : public World {
 public:
  MpiWorld(int* argc, char*** argv) {
    // Threads: a checkpoint may be written, or data read, while the step communicates.
    int provided = 0;
    check(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
    require(provided >= MPI_THREAD_SERIALIZED, ExitCode::kComm,
            "this MPI grants thread level {}, expected MPI_THREAD_SERIALIZED at least", provided);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm local = MPI_COMM_NULL;
    check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local),
          "local ranks");
    MPI_Comm_size(local, &local_size_);
    MPI_Comm_rank(local, &local_rank_);
    MPI_Comm_free(&local);
  }
  ~MpiWorld() override {
    if (std::uncaught_exceptions() == 0) MPI_Finalize();
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_size() const override { return local_size_; }
  int local_rank() const override { return local_rank_; }

  std::unique_ptr<Communicator> split(const Colors& color_of, const std::string& name) override {
    MPI_Comm comm = MPI_COMM_NULL;
    check(MPI_Comm_split(MPI_COMM_WORLD, color_of(rank_), rank_, &comm), name);
    int members = 1;
    MPI_Comm_size(comm, &members);
    if (members > 1) return std::make_unique<MpiCommunicator>(name, comm);
    MPI_Comm_free(&comm);
    return make_local_communicator(name);  // copies, where MPI would send to itself
  }

  // MPI_Abort asks mpirun to end the job; when mpirun no longer answers, this rank at least goes.
  void abort(int exit_code) override {
    static volatile sig_atomic_t code;
    code = exit_code;
    std::signal(SIGALRM, [](int) { _exit(code); });
    constexpr unsigned kPatienceSeconds = 10;
    ::alarm(kPatienceSeconds);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    _exit(exit_code);
  }

 private:
  int rank_ = 0, size_ = 1, local_size_ = 1, local_rank_ = 0;
};

}  // namespace

std::unique_ptr<World> make_mpi_world(int* argc, char*** argv) {
  return std::make_unique<MpiWorld>(argc, argv);
}

}  // namespace cadre::comm
