import networkx
from hypothesis import given
from hypothesis import strategies as st

from mindvl.data.steps.clusters import representatives


def test_being_alike_is_transitive_and_the_first_represents():
    assert representatives(8, [(3, 7), (0, 3), (5, 4)]) == [0, 1, 2, 0, 4, 4, 6, 0]


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_clusters_agree_with_connected_components_of_networkx(pairs):
    graph = networkx.Graph(pairs)
    graph.add_nodes_from(range(12))
    first = {node: min(component) for component in networkx.connected_components(graph) for node in component}
    assert representatives(12, pairs) == [first[node] for node in range(12)]
