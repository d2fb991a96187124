from casops.stores import AsyncStore, Store
def open_store(url: str) -> Store:
    raise NotImplementedError
def open_async_store(url: str) -> AsyncStore:
    raise NotImplementedError
